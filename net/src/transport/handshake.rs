//! A connection for pairing: rustls' buffered interface over a [`Link`], with one deadline.
//!
//! Pairing sends four small frames and needs the handshake's exporter, so the buffered interface
//! suits it better than the one that carries files ([`super::tls_link`]).

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Instant;

use rustls::{ClientConfig, ClientConnection};

use super::dial::{Link, broken};
use super::tls_link::server_name;
use crate::auth::tls::peer_id;
use crate::error::Error;
use crate::model::PeerId;

/// A link as `Read` and `Write`, with one deadline for all calls.
pub(crate) struct Timed<'a> {
    link: &'a Arc<dyn Link>,
    deadline: Instant,
}

impl<'a> Timed<'a> {
    pub(crate) fn new(link: &'a Arc<dyn Link>, deadline: Instant) -> Self {
        Self { link, deadline }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.link.read(buffer, self.deadline)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.link.write_all(bytes, self.deadline)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Completes the handshake, and returns the other side's key.
pub(crate) fn buffered(
    link: &Arc<dyn Link>,
    config: Arc<ClientConfig>,
    who: &str,
    deadline: Instant,
) -> Result<(ClientConnection, PeerId), Error> {
    let mut connection = ClientConnection::new(config, server_name())
        .map_err(|error| Error::local("starting TLS", io::Error::other(error)))?;
    let mut socket = Timed::new(link, deadline);
    while connection.is_handshaking() {
        connection
            .complete_io(&mut socket)
            .map_err(|error| failed(who, &error))?;
    }
    match peer_id(connection.peer_certificates()) {
        Some(peer) if connection.alpn_protocol().is_some() => Ok((connection, peer)),
        _ => Err(Error::NotANode { who: who.into() }),
    }
}

/// Translates an error; rustls reports those that are not the socket's as invalid data.
fn failed(who: &str, error: &io::Error) -> Error {
    if error.kind() == io::ErrorKind::InvalidData {
        tracing::debug!(who, %error, "the TLS handshake failed");
        return Error::NotANode { who: who.into() };
    }
    broken(who, error)
}
