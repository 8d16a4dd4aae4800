//! The accepting side of a pairing run: reads M1 and M3, writes M2 and M4.
//!
//! [`auth::pair`](crate::auth::pair) and the limits make all decisions; this file has the order of
//! the steps and their deadline. A stranger's bytes reach nothing but rustls and two `read_exact`
//! of fixed size.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::server::TlsStream;

use crate::auth::Gate;
use crate::auth::gate::{PAIRING_DEADLINE, whole_seconds};
use crate::auth::pair::{Binding, Callee, M1, M2, M3, Opening, PairingStatus, refusal};
use crate::auth::tls;
use crate::model::PeerId;

/// How long a caller waits for others' runs to end before it is asked to come back.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long the last bytes may take to leave.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// Serves one connection that agreed on [`tls::ALPN_PAIR`], from after its handshake to its
/// closing, in 12 s at most. Admits a caller that proves the password, and returns whether it did.
pub(crate) async fn serve<S>(tls: &mut TlsStream<S>, remote: IpAddr, gate: &Gate) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let deadline = Instant::now() + PAIRING_DEADLINE;
    let outcome = timeout_at(deadline, run(tls, remote, gate)).await;
    match &outcome {
        Ok(Ok(peer)) => tracing::debug!("{remote}: paired with {peer:?}"),
        Ok(Err(end)) => tracing::debug!("{remote}: not paired: {end}"),
        Err(_) => tracing::debug!("{remote}: not paired: too slow"),
    }
    // All messages were sent; a caller that does not listen loses them.
    let _ = timeout(CLOSE_DEADLINE, tls.shutdown()).await;
    matches!(outcome, Ok(Ok(_)))
}

async fn run<S>(tls: &mut TlsStream<S>, remote: IpAddr, gate: &Gate) -> Result<PeerId, PairingEnd>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let binding = binding(tls, gate).ok_or(PairingEnd::NoBinding)?;
    let caller = binding.caller;
    let mut m1: M1 = [0; size_of::<M1>()];
    tls.read_exact(&mut m1).await?;
    let opening = match Opening::read(&m1) {
        Ok(_) if caller == gate.id() => return refuse(tls, PairingStatus::Yourself, 0).await,
        Ok(opening) => opening,
        Err(status) => return refuse(tls, status, 0).await,
    };
    let patience = Instant::now() + PATIENCE;
    let charge = match gate.begin_inbound(caller, remote, patience).await {
        Ok(charge) => charge,
        Err(wait) => return refuse(tls, PairingStatus::Refused, whole_seconds(wait)).await,
    };
    let (callee, m2) =
        Callee::answer(gate.credentials(), binding, opening).map_err(|_| PairingEnd::OutOfOrder)?;
    send(tls, &m2).await?;
    let mut m3: M3 = [0; size_of::<M3>()];
    tls.read_exact(&mut m3).await?;
    match callee.receive(&m3) {
        Some(peer) => {
            // Admitted before M4 leaves: the caller may be back before this task runs again.
            gate.admit(peer);
            charge.proved();
            send(tls, &[PairingStatus::Ok as u8]).await?;
            Ok(peer)
        }
        None => {
            drop(charge);
            send(tls, &[PairingStatus::Refused as u8]).await?;
            Err(PairingEnd::WrongPassword)
        }
    }
}

fn binding<S>(tls: &TlsStream<S>, gate: &Gate) -> Option<Binding> {
    let connection = tls.get_ref().1;
    Some(Binding {
        caller: tls::peer_id(connection.peer_certificates())?,
        callee: gate.id(),
        exporter: tls::exporter(connection).ok()?,
    })
}

async fn refuse<S>(
    tls: &mut TlsStream<S>,
    status: PairingStatus,
    seconds: u16,
) -> Result<PeerId, PairingEnd>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let m2: M2 = refusal(status, seconds);
    send(tls, &m2).await?;
    Err(PairingEnd::Declined(status))
}

async fn send<S>(tls: &mut TlsStream<S>, frame: &[u8]) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    tls.write_all(frame).await?;
    tls.flush().await
}

/// Why a run ended without an admission, for the log.
#[derive(Debug, thiserror::Error)]
enum PairingEnd {
    #[error("the TLS handshake is not done")]
    NoBinding,
    #[error("declined with {0:?}")]
    Declined(PairingStatus),
    #[error("cannot compute an answer")]
    OutOfOrder,
    #[error("wrong password")]
    WrongPassword,
    #[error(transparent)]
    Io(#[from] io::Error),
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
