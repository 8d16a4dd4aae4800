//! The beginning of a connection, inspected in the kernel's buffer.
//!
//! Until a whole first TLS record has come, a connection costs nothing but its descriptor: no
//! buffer is allocated, and rustls is not involved.

use std::io;

use rustix::io::ioctl_fionread;
use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::yield_now;

/// A record's type, version and length (RFC 8446, section 5.1).
const HEADER: usize = 5;

/// The type of a record that holds a ClientHello, and the first byte of its version.
const HANDSHAKE: u8 = 22;
const MAJOR_VERSION: u8 = 3;

/// Maximum bytes of an unencrypted record.
const MAX_FRAGMENT: usize = 1 << 14;

/// The kind of data that has arrived.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// A whole record that may hold a ClientHello.
    Record,
    /// Something that is not TLS.
    Plain,
    /// The end of the connection, or an impossible record.
    Nothing,
}

/// Waits for the first record, or for whatever comes in its place. Reads nothing.
///
/// Each inconclusive look yields to other tasks: whatever the kernel reports, an undecided
/// connection does not delay its own deadline or eviction.
pub(super) async fn beginning(socket: &TcpStream) -> io::Result<Beginning> {
    loop {
        let ready = socket.ready(Interest::READABLE).await?;
        // Bytes that come between this look and the next wait are not missed: only the readiness
        // from before the look is cleared.
        match socket.try_io(Interest::READABLE, || look(socket)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            looked => return looked,
        }
        // The end came before the look, so nothing can follow what was seen. tokio never clears
        // this readiness: waiting for more would be no wait.
        if ready.is_read_closed() {
            return Ok(Beginning::Nothing);
        }
        yield_now().await;
    }
}

/// Looks at the data; `WouldBlock`, as if nothing had come yet, while more is needed to decide.
fn look(socket: &TcpStream) -> io::Result<Beginning> {
    let mut header = [0; HEADER];
    let (_, seen) = recv(socket, &mut header, RecvFlags::PEEK)?;
    let available = || ioctl_fionread(socket).map(|count| count as usize);
    match judge(&header[..seen]) {
        Judgement::Is(beginning) => Ok(beginning),
        Judgement::Needs(length) if available()? >= length => Ok(Beginning::Record),
        Judgement::Needs(_) => Err(io::ErrorKind::WouldBlock.into()),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    Is(Beginning),
    /// It may be a record once this many bytes have come.
    Needs(usize),
}

fn judge(header: &[u8]) -> Judgement {
    match *header {
        [] => Judgement::Is(Beginning::Nothing),
        [HANDSHAKE] => Judgement::Needs(HEADER),
        [HANDSHAKE, MAJOR_VERSION, ref rest @ ..] => match *rest {
            [_, high, low, ..] => match usize::from(u16::from_be_bytes([high, low])) {
                length @ 1..=MAX_FRAGMENT => Judgement::Needs(HEADER + length),
                _ => Judgement::Is(Beginning::Nothing),
            },
            _ => Judgement::Needs(HEADER),
        },
        [HANDSHAKE, ..] => Judgement::Is(Beginning::Nothing),
        _ => Judgement::Is(Beginning::Plain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_needs_all_its_bytes() {
        assert_eq!(judge(b"\x16"), Judgement::Needs(5));
        assert_eq!(judge(b"\x16\x03\x01\x02"), Judgement::Needs(5));
        assert_eq!(judge(b"\x16\x03\x01\x02\x00"), Judgement::Needs(5 + 512));
        assert_eq!(judge(b"\x16\x03\x01\x40\x00"), Judgement::Needs(5 + 16384));
    }

    #[test]
    fn what_can_be_no_record_is_not_waited_for() {
        for bytes in [
            &b""[..],
            b"\x16\x02",
            b"\x16\x03\x01\x00\x00",
            b"\x16\x03\x01\x40\x01",
            b"\x16\x03\x01\xff\xff",
        ] {
            assert_eq!(judge(bytes), Judgement::Is(Beginning::Nothing), "{bytes:?}");
        }
        for bytes in [&b"P"[..], b"\x15\x03\x01\x00\x02", b"\n"] {
            assert_eq!(judge(bytes), Judgement::Is(Beginning::Plain), "{bytes:?}");
        }
    }
}
