//! Answers the calls of clients of 2004: lists servers, lists files, sends the contents of a file.
//!
//! The token comes first: a caller with none, or a wrong one, learns nothing but that, and causes
//! no further work. A caller with a right one sees the files at the top of the share, as a server
//! of 2004 has only those: no directories, no names that begin with a dot, and nothing by any other
//! path. Calls may wait for a disk.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::known::MAX_MENTIONED;
use super::wire::{self, Form, MAX_CALL_BYTES, MAX_LISTED, Operation, Survey};
use super::{Legacy, NODE_FIELD, Url};
use crate::content::read_full::read_full;
use crate::membership::address::{Scope, scope_of_ip};
use crate::model::{Name, PeerId, RelPath};
use crate::service::plaintext::{
    DocumentStream, PlaintextAnswer, PlaintextCall, PlaintextProtocol,
};
use crate::share::{Asker, Share, SharedFile, is_changed, retry_while_changing};

/// Contents are examined and sent in pieces of this many bytes: a multiple of three, for base64.
pub const PIECE: usize = 192 << 10;

/// Longer contents are not sent: the original's clients hold them in memory, several times. This
/// also bounds the time needed to examine them first.
pub const MAX_CONTENTS: u64 = 4 << 30;

/// The time limit for matching a pattern against the names at the top of the share.
const MATCHING: Duration = Duration::from_secs(10);

/// This node as a server of 2004.
pub struct LegacyServer {
    legacy: Arc<Legacy>,
    /// The id of this node, announced to clients that know of it.
    me: PeerId,
}

impl LegacyServer {
    /// Creates the server of the node `me`.
    pub fn new(legacy: Arc<Legacy>, me: PeerId) -> Self {
        Self { legacy, me }
    }
}

/// A call whose token was accepted.
struct AcceptedCall {
    legacy: Arc<Legacy>,
    operation: Operation,
    /// The URL by which this node was called.
    called: Url,
}

impl PlaintextProtocol for LegacyServer {
    fn max_call_bytes(&self) -> usize {
        MAX_CALL_BYTES
    }

    fn response_field(&self) -> (&'static str, String) {
        (NODE_FIELD, self.me.to_string())
    }

    fn accept(
        &self,
        document: &[u8],
        local: SocketAddr,
    ) -> Result<Box<dyn PlaintextCall>, Vec<u8>> {
        let call =
            wire::decode_call(document).map_err(|why| wire::encode_fault(&why.to_string()))?;
        let legacy = &self.legacy;
        let mut candidates = legacy.own();
        candidates.extend(local_urls(local.ip(), local.port()));
        let called = legacy.key().made_for(&call.token, &candidates);
        let called = called.cloned().ok_or_else(wire::encode_denial)?;
        legacy.known().called(&called);
        let operation = call.operation.map_err(|why| wire::encode_fault(&why))?;
        Ok(Box::new(AcceptedCall {
            legacy: Arc::clone(legacy),
            operation,
            called,
        }))
    }
}

impl PlaintextCall for AcceptedCall {
    fn is_search(&self) -> bool {
        matches!(self.operation, Operation::Names(_))
    }

    fn answer(&self, share: Option<&Share>, remote: IpAddr, now: Instant) -> PlaintextAnswer {
        match &self.operation {
            Operation::Servers(urls) => {
                let scope = scope_of_ip(remote);
                let servers = self.legacy.servers(urls, &self.called, scope, now);
                PlaintextAnswer::Document(servers)
            }
            Operation::Names(pattern) => PlaintextAnswer::Document(names(share, pattern)),
            Operation::Contents(name) => match contents(share, name) {
                Ok(document) => PlaintextAnswer::Stream(Arc::new(document)),
                Err(why) => PlaintextAnswer::Document(wire::encode_fault(&why)),
            },
        }
    }
}

impl Legacy {
    /// Learns of servers, and lists all that are meaningful to a caller within `scope`: this one by
    /// the URL by which it was called.
    fn servers(&self, mentioned: &[Vec<u8>], called: &Url, scope: Scope, now: Instant) -> Vec<u8> {
        for url in mentioned.iter().take(MAX_MENTIONED) {
            let url = std::str::from_utf8(url)
                .ok()
                .and_then(|url| url.parse().ok());
            if let Some(url) = url.filter(|url| url != called)
                && self.learn(Url::clone(&url), scope, now)
            {
                tracing::info!(%url, "told of a server of 2004");
            }
        }
        let others = self.useful_to(scope);
        let urls = [called].into_iter().chain(&others);
        wire::encode_servers(urls.map(Url::as_str))
    }
}

/// Returns the URLs by which this node can be called at a local address without announcing it.
fn local_urls(local: IpAddr, port: u16) -> Vec<Url> {
    let local = local.to_canonical();
    let host = local.is_loopback().then(|| Url::new("localhost", port));
    let urls = [Some(Url::new(&local.to_string(), port)), host];
    urls.into_iter().flatten().filter_map(Result::ok).collect()
}

fn names(share: Option<&Share>, pattern: &str) -> Vec<u8> {
    let until = Instant::now() + MATCHING;
    let names = match share {
        Some(share) => share.top_files(pattern, MAX_LISTED, until),
        None => Ok(Vec::new()),
    };
    match names {
        Ok(names) => wire::encode_names(names.iter().map(Vec::as_slice)),
        Err(fault) => wire::encode_fault(&fault.message),
    }
}

/// Opens the document of the file `name` at the top of the share.
fn contents(share: Option<&Share>, name: &[u8]) -> Result<ContentsDocument, String> {
    let absent = || "no such file".to_owned();
    let (share, path) = share.zip(top(name)).ok_or_else(absent)?;
    let attempt = || {
        let file = match share.open_file(&path, Asker::Nobody) {
            Ok(file) => file,
            Err(fault) if fault.is_absence() => return Ok(Err(absent())),
            Err(fault) => return Ok(Err(fault.message)),
        };
        if file.size() > MAX_CONTENTS {
            return Ok(Err(format!(
                "the file has more than {MAX_CONTENTS} bytes, the most that are sent in this protocol"
            )));
        }
        let form = form(&file)?;
        Ok(Ok(ContentsDocument { form, file }))
    };
    retry_while_changing(attempt).unwrap_or_else(|error| {
        Err(if is_changed(&error) {
            "the file is being changed".to_owned()
        } else {
            error.to_string()
        })
    })
}

/// Returns the path of a plain name, unless it is hidden.
fn top(name: &[u8]) -> Option<RelPath> {
    let name = Name::new(name).ok().filter(|name| !name.is_hidden())?;
    RelPath::root().join(&name).ok()
}

/// Examines the contents until they turn out not to be text.
fn form(file: &SharedFile) -> io::Result<Form> {
    let mut survey = Survey::default();
    let mut buffer = vec![0; PIECE];
    let mut offset = 0;
    while offset < file.size() {
        let count = file.read_at(offset, &mut buffer)?;
        if !survey.is_text(&buffer[..count]) {
            return Ok(Form::Base64);
        }
        offset += count as u64;
    }
    Ok(survey.form())
}

/// A document of the contents of a file. It is no longer available once the version of the file
/// differs from the one opened.
#[derive(Debug)]
struct ContentsDocument {
    form: Form,
    file: SharedFile,
}

/// Pieces of contents have their offset plus this as their position.
const CONTENTS: u64 = 1;

impl DocumentStream for ContentsDocument {
    fn total_bytes(&self) -> u64 {
        self.form.document_bytes(self.file.size())
    }

    /// The head has position 0, and the tail the one after all contents.
    fn piece(&self, position: u64) -> io::Result<Option<(Vec<u8>, u64)>> {
        let size = self.file.size();
        let Some(offset) = position.checked_sub(CONTENTS) else {
            return Ok(Some((self.form.head().to_vec(), CONTENTS)));
        };
        if offset > size {
            return Ok(None);
        }
        if offset == size {
            return Ok(Some((self.form.tail().to_vec(), position + 1)));
        }
        let (written, behind) = self.contents(offset)?;
        Ok(Some((written, CONTENTS + behind)))
    }
}

impl ContentsDocument {
    /// Reads the contents at `offset`, and encodes them in the form. Returns the offset
    /// after them, too.
    fn contents(&self, offset: u64) -> io::Result<(Vec<u8>, u64)> {
        let left = self.file.size().saturating_sub(offset);
        let mut buffer = vec![0; usize::try_from(left).map_or(PIECE, |left| left.min(PIECE))];
        let read = |at, part: &mut [u8]| self.file.read_at(at, part);
        let filled = read_full(offset, &mut buffer, read)?;
        if filled < buffer.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut written = Vec::with_capacity(buffer.len() / 3 * 4 + 4);
        self.form.write(&buffer, &mut written);
        Ok((written, offset + filled as u64))
    }
}

#[cfg(test)]
mod tests;
