//! Answers the calls of clients of 2004: which servers there are, which files, what is in one.
//!
//! The token comes first: whoever has none, or a wrong one, learns nothing but that, and nothing is
//! done for him. Whoever has one sees the files at the top of the share, as that is what a server
//! of 2004 has: no directories, no names that begin with a dot, and nothing by any other path. May
//! wait for a disk.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::known::MAX_MENTIONED;
use super::wire::{self, Form, MAX_LISTED, Operation, Survey};
use super::{Legacy, Url};
use crate::content::read_full::read_full;
use crate::membership::address::{Reach, reach_of_ip};
use crate::model::{Name, RelPath};
use crate::share::{Asker, Share, SharedFile, is_changed, retry_while_changing};

/// Contents are looked at and sent in pieces of so many bytes: a multiple of three, for base64.
pub const PIECE: usize = 192 << 10;

/// Longer contents are not sent: the original's clients hold them in memory, several times. It also
/// bounds the time that it takes to look at them first.
pub const MAX_CONTENTS: u64 = 4 << 30;

/// A pattern has so much time for the names at the top of the share.
const MATCHING: Duration = Duration::from_secs(10);

/// A call that may be answered.
#[derive(Debug)]
pub struct Accepted {
    /// What is asked.
    pub operation: Operation,
    /// By which URL this node was called.
    pub called: Url,
}

/// What to send.
#[derive(Debug)]
pub enum LegacyResponse {
    /// A whole document, ready to be sent.
    Document(Vec<u8>),
    /// A document of the contents of this file, in this form.
    Contents(Form, Arc<SharedFile>),
}

impl Legacy {
    /// The call in `document`, if it may be answered; else the document to refuse it with. It came
    /// to `local`, an address of this machine.
    pub fn accept(&self, document: &[u8], local: IpAddr, port: u16) -> Result<Accepted, Vec<u8>> {
        let call =
            wire::decode_call(document).map_err(|why| wire::encode_fault(&why.to_string()))?;
        let mut candidates = self.own();
        candidates.extend(local_urls(local, port));
        let called = self.key().made_for(&call.token, &candidates);
        let called = called.cloned().ok_or_else(wire::encode_denial)?;
        self.known.lock().called(&called);
        let operation = call.operation.map_err(|why| wire::encode_fault(&why))?;
        Ok(Accepted { operation, called })
    }

    /// Does what was asked, by somebody at `remote`.
    pub fn answer(
        &self,
        share: Option<&Share>,
        call: &Accepted,
        remote: IpAddr,
        now: Instant,
    ) -> LegacyResponse {
        match &call.operation {
            Operation::Servers(mentioned) => {
                let reach = reach_of_ip(remote);
                LegacyResponse::Document(self.servers(mentioned, &call.called, reach, now))
            }
            Operation::Names(pattern) => LegacyResponse::Document(names(share, pattern)),
            Operation::Contents(name) => match contents(share, name) {
                Ok((form, file)) => LegacyResponse::Contents(form, Arc::new(file)),
                Err(why) => LegacyResponse::Document(wire::encode_fault(&why)),
            },
        }
    }

    /// Learns of servers, and tells of all that mean something to a caller within `reach`: of this
    /// one by the URL that he has found it by.
    fn servers(&self, mentioned: &[Vec<u8>], called: &Url, reach: Reach, now: Instant) -> Vec<u8> {
        for url in mentioned.iter().take(MAX_MENTIONED) {
            let url = std::str::from_utf8(url)
                .ok()
                .and_then(|url| url.parse().ok());
            if let Some(url) = url.filter(|url| url != called)
                && self.learn(Url::clone(&url), reach, now)
            {
                tracing::info!(%url, "told of a server of 2004");
            }
        }
        let others = self.useful_to(reach);
        let urls = [called].into_iter().chain(&others);
        wire::encode_servers(urls.map(Url::as_str))
    }
}

/// By what this node can be called at an address of its own, without having announced it.
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

/// The file `name` at the top of the share, and how its contents are to be written.
fn contents(share: Option<&Share>, name: &[u8]) -> Result<(Form, SharedFile), String> {
    let absent = || "no such file".to_owned();
    let (share, path) = share.zip(top(name)).ok_or_else(absent)?;
    let attempt = || {
        let file = match share.open_file(&path, Asker::Nobody) {
            Ok(file) => file,
            Err(fault) if fault.is_absence() => return Ok(Err(absent())),
            Err(fault) => return Ok(Err(fault.message)),
        };
        if file.attributes().size > MAX_CONTENTS {
            return Ok(Err(format!(
                "the file has more than {MAX_CONTENTS} bytes, the most that are sent in this protocol"
            )));
        }
        Ok(Ok((form(&file)?, file)))
    };
    retry_while_changing(attempt).unwrap_or_else(|error| {
        Err(if is_changed(&error) {
            "the file is being changed".to_owned()
        } else {
            error.to_string()
        })
    })
}

/// The path of a plain name, if it is one that is shown.
fn top(name: &[u8]) -> Option<RelPath> {
    let name = Name::new(name).ok().filter(|name| !name.is_hidden())?;
    RelPath::root().join(&name).ok()
}

/// Looks at the contents until they turn out not to be text.
fn form(file: &SharedFile) -> io::Result<Form> {
    let mut survey = Survey::default();
    let mut buffer = vec![0; PIECE];
    let mut offset = 0;
    while offset < file.attributes().size {
        let count = file.read_at(offset, &mut buffer)?;
        if !survey.is_text(&buffer[..count]) {
            return Ok(Form::Base64);
        }
        offset += count as u64;
    }
    Ok(survey.form())
}

/// Reads the piece of the contents at `offset`, written as `form` has it, and the offset behind it.
pub fn piece(file: &SharedFile, form: Form, offset: u64) -> io::Result<(Vec<u8>, u64)> {
    let left = file.attributes().size.saturating_sub(offset);
    let mut buffer = vec![0; usize::try_from(left).map_or(PIECE, |left| left.min(PIECE))];
    let filled = read_full(offset, &mut buffer, |at, part| file.read_at(at, part))?;
    let mut written = Vec::with_capacity(buffer.len() / 3 * 4 + 4);
    form.write(&buffer, &mut written);
    Ok((written, offset + filled as u64))
}

#[cfg(test)]
mod tests;
