//! TLS over a [`Link`], with rustls' unbuffered interface.
//!
//! The buffered interface reads at most 4 KiB at each step and keeps its own queue of plaintext.
//! Here the socket is read in large pieces into one buffer, records are decrypted in place, and
//! their contents are copied once, straight to where the HTTP parser wants them.
//!
//! A [`TlsLink`] exists only after a complete handshake that proved the other side's key. The
//! caller must decide whether that key is the right one before it sends anything.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, ReadTraffic, UnbufferedStatus,
    WriteTraffic,
};
use rustls::{ClientConfig, client::ClientConnectionData};

use super::dial::{Link, broken};
use crate::auth::tls::peer_id;
use crate::error::Error;
use crate::model::PeerId;

/// The most plaintext in one record (RFC 8446, section 5.1).
pub(crate) const MAX_PLAINTEXT: usize = 1 << 14;

/// The most bytes of one record on the wire (RFC 8446, section 5.2).
const MAX_RECORD: usize = MAX_PLAINTEXT + 256 + 5;

/// The most bytes to read from the socket at once.
const RECEIVE_BUFFER: usize = 128 * 1024;

/// An encrypted connection to a proven key.
pub(crate) struct TlsLink {
    link: Arc<dyn Link>,
    tls: UnbufferedClientConnection,
    incoming: Incoming,
    outgoing: Vec<u8>,
    peer: PeerId,
    who: String,
}

/// The state in which rustls stopped.
enum TlsStep {
    /// The handshake needs more bytes.
    Handshaking,
    /// The connection needs more bytes, and can encrypt some.
    Open,
    /// The buffer received this many bytes of plaintext; 0 when the next record does not fit.
    Received(usize),
    /// The other side has announced that it will send no more.
    Closed,
}

/// Why the connection cannot continue.
enum Broken {
    Io(io::Error),
    Tls(rustls::Error),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl TlsLink {
    /// Performs the handshake over `link`; `who` names the other side in errors. A peer that
    /// answers but does not speak TLS as members do is [`Error::NotANode`].
    pub(crate) fn handshake(
        link: Arc<dyn Link>,
        config: Arc<ClientConfig>,
        who: String,
        deadline: Instant,
    ) -> Result<Self, Error> {
        let tls = UnbufferedClientConnection::new(config, server_name())
            .map_err(|error| Error::local("starting TLS", io::Error::other(error)))?;
        let mut this = Self {
            link,
            tls,
            incoming: Incoming::default(),
            outgoing: Vec::new(),
            peer: PeerId::from_bytes([0; 32]),
            who,
        };
        match this.shake_hands(deadline) {
            Ok(()) => {}
            Err(Broken::Io(error)) => return Err(broken(&this.who, &error)),
            Err(Broken::Tls(error)) => {
                tracing::debug!(who = this.who, %error, "the TLS handshake failed");
                return Err(Error::NotANode { who: this.who });
            }
        }
        match peer_id(this.tls.peer_certificates()) {
            Some(peer) if this.tls.alpn_protocol().is_some() => Ok(Self { peer, ..this }),
            _ => Err(Error::NotANode { who: this.who }),
        }
    }

    /// Returns the key that the other side has proven.
    pub(crate) fn peer(&self) -> PeerId {
        self.peer
    }

    /// Returns the connection below TLS.
    pub(crate) fn link(&self) -> &Arc<dyn Link> {
        &self.link
    }

    /// Returns the name of the other side in errors.
    pub(crate) fn who(&self) -> &str {
        &self.who
    }

    /// Returns true when nothing received is unread, as far as this side has seen.
    pub(crate) fn is_drained(&self) -> bool {
        self.incoming.is_empty()
    }

    /// Returns true while the other side has neither closed nor sent anything that is unread.
    pub(crate) fn is_quiet(&self) -> bool {
        self.incoming.is_empty() && self.link.is_quiet()
    }

    /// Encrypts and sends all of `plaintext`.
    pub(crate) fn write_all(&mut self, plaintext: &[u8], deadline: Instant) -> Result<(), Error> {
        self.send(plaintext, deadline)
            .map_err(|error| self.blame(error))
    }

    /// Waits for plaintext and puts all that has arrived, in whole records, into `buffer`, which
    /// has at least [`MAX_PLAINTEXT`] bytes. The end of the connection is an error: HTTP knows how
    /// much is to come.
    pub(crate) fn read(&mut self, buffer: &mut [u8], deadline: Instant) -> Result<usize, Error> {
        self.receive(buffer, None, deadline)
            .map_err(|error| self.blame(error))
    }

    /// Reads like [`Self::read`] into a `buffer` of any length but 0: fills it with the bytes that
    /// have arrived, and appends the rest of the last record to `over`.
    pub(crate) fn read_over(
        &mut self,
        buffer: &mut [u8],
        over: &mut Vec<u8>,
        deadline: Instant,
    ) -> Result<usize, Error> {
        self.receive(buffer, Some(over), deadline)
            .map_err(|error| self.blame(error))
    }

    fn blame(&self, broken_by: Broken) -> Error {
        match broken_by {
            Broken::Io(error) => broken(&self.who, &error),
            Broken::Tls(rustls::Error::AlertReceived(alert)) => Error::Unreachable {
                who: self.who.clone(),
                why: format!("it ended the connection ({alert:?})"),
            },
            Broken::Tls(error) => Error::misbehaved(&self.who, error.to_string()),
        }
    }

    fn shake_hands(&mut self, deadline: Instant) -> Result<(), Broken> {
        loop {
            match self.turn(&mut [], None, deadline)? {
                TlsStep::Handshaking => self.fill(deadline)?,
                TlsStep::Open | TlsStep::Received(_) => return Ok(()),
                TlsStep::Closed => return Err(closed()),
            }
        }
    }

    fn receive(
        &mut self,
        buffer: &mut [u8],
        mut over: Option<&mut Vec<u8>>,
        deadline: Instant,
    ) -> Result<usize, Broken> {
        let mut filled = 0;
        loop {
            match self.turn(&mut buffer[filled..], over.as_deref_mut(), deadline)? {
                TlsStep::Received(0) => return Ok(filled),
                TlsStep::Received(more) => {
                    filled += more;
                    if filled == buffer.len() {
                        return Ok(filled);
                    }
                }
                _ if filled > 0 => return Ok(filled),
                TlsStep::Handshaking | TlsStep::Open => self.fill(deadline)?,
                TlsStep::Closed => return Err(closed()),
            }
        }
    }

    fn send(&mut self, plaintext: &[u8], deadline: Instant) -> Result<(), Broken> {
        match self.turn(&mut [], None, deadline)? {
            TlsStep::Open => {}
            TlsStep::Closed | TlsStep::Handshaking => return Err(closed()),
            TlsStep::Received(_) => {
                let error = "it spoke before it was asked";
                return Err(Broken::Tls(rustls::Error::General(error.into())));
            }
        }
        let status = self.tls.process_tls_records(self.incoming.filled());
        let UnbufferedStatus { discard, state, .. } = status;
        let ConnectionState::WriteTraffic(mut traffic) = state.map_err(Broken::Tls)? else {
            return Err(closed());
        };
        let length = encrypt(&mut traffic, plaintext, &mut self.outgoing)?;
        self.incoming.discard(discard);
        let sent = self.link.write_all(&self.outgoing[..length], deadline);
        self.outgoing.clear();
        Ok(sent?)
    }

    /// Lets rustls run until it needs something, and sends its output on the way.
    fn turn(
        &mut self,
        plaintext: &mut [u8],
        over: Option<&mut Vec<u8>>,
        deadline: Instant,
    ) -> Result<TlsStep, Broken> {
        let mut over = over;
        loop {
            let status = self.tls.process_tls_records(self.incoming.filled());
            let UnbufferedStatus { discard, state, .. } = status;
            let turn = match state.map_err(Broken::Tls)? {
                ConnectionState::EncodeTlsData(mut record) => {
                    encode(&mut record, &mut self.outgoing)?;
                    None
                }
                ConnectionState::TransmitTlsData(transmit) => {
                    self.link.write_all(&self.outgoing, deadline)?;
                    self.outgoing.clear();
                    transmit.done();
                    None
                }
                ConnectionState::ReadTraffic(mut traffic) => {
                    let over = over.as_deref_mut();
                    Some(TlsStep::Received(take_records(
                        &mut traffic,
                        plaintext,
                        over,
                    )?))
                }
                ConnectionState::BlockedHandshake => Some(TlsStep::Handshaking),
                ConnectionState::WriteTraffic(_) => Some(TlsStep::Open),
                _ => Some(TlsStep::Closed),
            };
            self.incoming.discard(discard);
            if let Some(turn) = turn {
                return Ok(turn);
            }
        }
    }

    fn fill(&mut self, deadline: Instant) -> Result<(), Broken> {
        // A link need not check the clock while bytes are ready, and records of one byte could keep
        // a reader busy long after its deadline. (rustls refuses more than a few empty ones.)
        if Instant::now() >= deadline {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
        let read = self.link.read(self.incoming.space(), deadline)?;
        if read == 0 {
            return Err(closed());
        }
        self.incoming.add(read);
        Ok(())
    }
}

impl fmt::Debug for TlsLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsLink({}, {:?})", self.who, self.peer)
    }
}

/// Returns a name that is never sent (there is no SNI) and never checked (keys are), but
/// that rustls requires.
pub(crate) fn server_name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::IpAddr::from([0, 0, 0, 0]).into())
}

fn closed() -> Broken {
    Broken::Io(io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "it closed the connection",
    ))
}

fn encode(
    record: &mut EncodeTlsData<'_, ClientConnectionData>,
    outgoing: &mut Vec<u8>,
) -> Result<(), Broken> {
    let start = outgoing.len();
    outgoing.resize(start + MAX_RECORD, 0);
    let written = loop {
        match record.encode(&mut outgoing[start..]) {
            Ok(written) => break written,
            Err(EncodeError::InsufficientSize(size)) => {
                outgoing.resize(start + size.required_size, 0);
            }
            Err(error) => return Err(io::Error::other(error).into()),
        }
    };
    outgoing.truncate(start + written);
    Ok(())
}

fn encrypt(
    traffic: &mut WriteTraffic<'_, ClientConnectionData>,
    plaintext: &[u8],
    outgoing: &mut Vec<u8>,
) -> Result<usize, Broken> {
    outgoing.resize(plaintext.len() + 256, 0);
    loop {
        match traffic.encrypt(plaintext, outgoing) {
            Ok(written) => return Ok(written),
            Err(EncryptError::InsufficientSize(size)) => outgoing.resize(size.required_size, 0),
            Err(error) => return Err(io::Error::other(error).into()),
        }
    }
}

/// Moves as many whole records as fit, and the beginning of the next one if its rest may go `over`.
fn take_records(
    traffic: &mut ReadTraffic<'_, '_, ClientConnectionData>,
    plaintext: &mut [u8],
    mut over: Option<&mut Vec<u8>>,
) -> Result<usize, Broken> {
    let mut filled = 0;
    while let Some(length) = traffic.peek_len() {
        let space = &mut plaintext[filled..];
        let fits = length.get().min(space.len());
        if fits == 0 || (fits < length.get() && over.is_none()) {
            break;
        }
        let Some(record) = traffic.next_record() else {
            break;
        };
        let (now, later) = record.map_err(Broken::Tls)?.payload.split_at(fits);
        space[..fits].copy_from_slice(now);
        filled += fits;
        if let Some(over) = over.as_deref_mut() {
            over.extend_from_slice(later);
        }
    }
    Ok(filled)
}

/// Bytes from the socket that rustls has not finished with.
#[derive(Default)]
struct Incoming {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Incoming {
    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn filled(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    fn discard(&mut self, count: usize) {
        self.start += count;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Returns room for at least the rest of the record that has begun.
    fn space(&mut self) -> &mut [u8] {
        if self.bytes.is_empty() {
            self.bytes = vec![0; RECEIVE_BUFFER];
        }
        if self.bytes.len() - self.end < MAX_RECORD {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.bytes[self.end..]
    }

    fn add(&mut self, count: usize) {
        self.end += count;
    }
}
