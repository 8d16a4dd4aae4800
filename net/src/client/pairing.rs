//! The dialling side of a pairing run: writes M1 and M3, reads M2 and M4.
//!
//! [`auth::pair`](crate::auth::pair) and the limits make all decisions. This file contains the
//! order of the steps, their deadline, and the error for each ending.

use std::io::{self, ErrorKind, Read, Write};
use std::time::Instant;

use rustls::ClientConnection;

use crate::auth::gate::PAIRING_DEADLINE;
use crate::auth::pair::{Binding, M2, M4, PairingCaller, PairingFailure};
use crate::auth::{AddressSource, Gate, tls};
use crate::error::Error;
use crate::model::PeerId;

/// Pairs over `connection`, whose handshake must be done, with whoever answers at `who`: the
/// dialled address, under which failures are remembered. On success that key is admitted here and
/// this node's key there, and the connection has served its purpose.
///
/// `socket` must have its timeouts set; the run gives up 10 s after its start, or one of those
/// timeouts later. [`Error::Refused`] is a wrong password (now, or recently at this address);
/// [`Error::Later`] is a limit on guesses, the other side's or this node's own; [`Error::NotANode`]
/// is a peer that did not agree to pair.
pub(crate) fn run<S: Read + Write>(
    connection: &mut ClientConnection,
    socket: &mut S,
    who: &str,
    source: AddressSource,
    gate: &Gate,
) -> Result<PeerId, Error> {
    let binding = binding(connection, who, gate)?;
    if binding.callee == gate.id() {
        return Err(Error::Myself { who: who.into() });
    }
    let charge = gate.begin_outbound(who, source)?;
    let mut line = Line {
        stream: rustls::Stream::new(connection, socket),
        deadline: Instant::now() + PAIRING_DEADLINE,
        who,
    };
    let (caller, m1) = PairingCaller::start(gate.credentials(), binding)
        .map_err(|error| Error::local("pairing", error))?;
    line.send(&m1)?;
    let m2: M2 = line.receive()?;
    let (confirming, m3) = match caller.receive(&m2) {
        Ok(next) => next,
        Err(failure) => {
            if failure == PairingFailure::WrongPassword {
                charge.wrong_password();
            }
            line.close();
            return Err(name(failure, who));
        }
    };
    line.send(&m3)?;
    let m4: M4 = line.receive()?;
    let peer = confirming
        .receive(m4)
        .map_err(|failure| name(failure, who))?;
    charge.paired();
    gate.admit(peer);
    line.close();
    Ok(peer)
}

fn binding(connection: &ClientConnection, who: &str, gate: &Gate) -> Result<Binding, Error> {
    let not_a_node = || Error::NotANode { who: who.into() };
    if connection.alpn_protocol() != Some(tls::ALPN_PAIR) {
        return Err(not_a_node());
    }
    Ok(Binding {
        caller: gate.id(),
        callee: tls::peer_id(connection.peer_certificates()).ok_or_else(not_a_node)?,
        exporter: tls::exporter(connection).map_err(|_| not_a_node())?,
    })
}

fn name(failure: PairingFailure, who: &str) -> Error {
    let who = who.to_owned();
    match failure {
        PairingFailure::Later(seconds) => Error::Later { who, seconds },
        PairingFailure::Yourself => Error::Myself { who },
        PairingFailure::WrongPassword | PairingFailure::Refused => Error::Refused { who },
        PairingFailure::BadMessage => {
            Error::misbehaved(who, "it does not pair in a way known here")
        }
    }
}

/// The connection, with the deadline of the run.
struct Line<'a, S: Read + Write> {
    stream: rustls::Stream<'a, ClientConnection, S>,
    deadline: Instant,
    who: &'a str,
}

impl<S: Read + Write> Line<'_, S> {
    fn send(&mut self, frame: &[u8]) -> Result<(), Error> {
        self.stream
            .write_all(frame)
            .and_then(|()| self.stream.flush())
            .map_err(|error| self.broken(error))
    }

    fn receive<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut frame = [0; N];
        let mut filled = 0;
        while filled < N {
            // Checked between reads, so that a trickle of bytes does not go on forever.
            if Instant::now() >= self.deadline {
                return Err(self.broken(ErrorKind::TimedOut.into()));
            }
            match self.stream.read(&mut frame[filled..]) {
                Ok(0) => return Err(self.broken(ErrorKind::UnexpectedEof.into())),
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
        Ok(frame)
    }

    /// Closes the connection as TLS requires; it does not matter whether that arrives.
    fn close(mut self) {
        self.stream.conn.send_close_notify();
        let _ = self.stream.flush();
    }

    fn broken(&self, error: io::Error) -> Error {
        let who = self.who.to_owned();
        match error.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Error::Timeout { who },
            ErrorKind::UnexpectedEof => {
                Error::unreachable(who, "it closed the connection while pairing")
            }
            _ => Error::unreachable(who, error),
        }
    }
}
