//! Binding the port: dual-stack where the machine has IPv6.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Listen;
use crate::error::Error;
use crate::model::DEFAULT_PORT;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Binds as `listen` says; `None` for [`Listen::Nowhere`]. The socket does not block.
pub(super) fn bind(listen: &Listen) -> Result<Option<TcpListener>, Error> {
    let everywhere = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    match listen {
        Listen::Nowhere => Ok(None),
        Listen::At(address) => bind_to(*address).map(Some),
        Listen::Default => match bind_socket(everywhere(DEFAULT_PORT)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let listener = bind_to(everywhere(0))?;
                tracing::warn!(
                    taken = DEFAULT_PORT,
                    port = listener.local_addr().map_or(0, |address| address.port()),
                    "the usual port is taken; listening on a free one"
                );
                Ok(Some(listener))
            }
            bound => bound
                .map(Some)
                .map_err(|error| failed(everywhere(DEFAULT_PORT), error)),
        },
    }
}

fn bind_to(address: SocketAddr) -> Result<TcpListener, Error> {
    bind_socket(address).map_err(|error| failed(address, error))
}

fn failed(address: SocketAddr, error: io::Error) -> Error {
    let what = format!("listening on {address}");
    if error.kind() == io::ErrorKind::AddrInUse {
        let why = "another program listens there; choose another port";
        return Error::local(what, why);
    }
    Error::local(what, error)
}

/// Binds to `address`. `[::]` takes IPv4 too, and is `0.0.0.0` on a machine without IPv6.
fn bind_socket(address: SocketAddr) -> io::Result<TcpListener> {
    match bind_exactly(address) {
        Err(error)
            if address.ip() == Ipv6Addr::UNSPECIFIED
                && error.kind() != io::ErrorKind::AddrInUse
                && error.kind() != io::ErrorKind::PermissionDenied =>
        {
            bind_exactly((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        bound => bound,
    }
}

fn bind_exactly(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // A restart need not wait for the connections of the last run to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn an_address_in_use_is_one_clear_line() {
        let first = bind(&Listen::At("127.0.0.1:0".parse().unwrap()))
            .unwrap()
            .unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(&Listen::At(address)).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("listening on {address}: another program listens there; choose another port")
        );
    }

    #[test]
    fn the_default_falls_back_to_a_free_port() {
        // Whether this test or another program has the usual port, the second one gets another.
        let first = bind(&Listen::Default).unwrap().unwrap();
        let second = bind(&Listen::Default).unwrap().unwrap();
        let second = second.local_addr().unwrap().port();
        assert_ne!(second, DEFAULT_PORT);
        assert_ne!(second, first.local_addr().unwrap().port());
    }

    #[test]
    fn the_unspecified_address_takes_ipv4_too() {
        let listener = bind(&Listen::At("[::]:0".parse().unwrap()))
            .unwrap()
            .unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
    }
}
