//! One pairing run: four frames of fixed size, as two state machines without IO.
//!
//! ```text
//! M1  caller -> callee   97 B   version (1) | KE1
//! M2  callee -> caller  323 B   status | retry_after, seconds, big-endian u16 | KE2
//! M3  caller -> callee   64 B   KE3
//! M4  callee -> caller    1 B   status
//! ```
//!
//! KE1, KE2 and KE3 are the login messages of OPAQUE (RFC 9807, section 6); after a refusal KE2 is
//! zeros. KE1 says nothing about the password. KE2 lets the caller test the one guess that it put
//! into KE1, and shows it that the callee knows the password; a caller that cannot verify KE2 goes
//! away. Only KE3 shows the callee that the caller knows the password too. So either side learns at
//! most whether one guess was right, and both must count a run that stops early as a guess.
//!
//! The context of a run is [`Binding`]: both TLS keys and the exporter of the connection. A relay
//! that terminates TLS on both sides has other keys and another exporter on each. So the messages
//! it passes through do not verify, and nothing can be replayed on another connection.
//!
//! States are types, so no step can be taken twice or out of order:
//! `PairingCaller -> Confirming -> done` and `Opening -> Callee -> done`.

use opaque_ke::errors::ProtocolError;
use opaque_ke::{
    ClientLogin, ClientLoginFinishParameters, CredentialFinalization, CredentialRequest,
    CredentialResponse, ServerLogin, ServerLoginParameters,
};

use super::credentials::{CREDENTIAL, Credentials, Suite, SystemRng, identifiers};
use super::tls::ALPN_PAIR;
use crate::model::PeerId;

/// The version in M1.
pub const VERSION: u8 = 1;

const KE1_BYTES: usize = 96;
const KE2_BYTES: usize = 320;
const KE3_BYTES: usize = 64;

/// First frame, caller to callee.
pub type M1 = [u8; 1 + KE1_BYTES];
/// Second frame, callee to caller.
pub type M2 = [u8; 3 + KE2_BYTES];
/// Third frame, caller to callee.
pub type M3 = [u8; KE3_BYTES];
/// Fourth frame, callee to caller.
pub type M4 = [u8; 1];

/// The status byte of M2 and M4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum PairingStatus {
    /// Continue (M2); admitted (M4).
    Ok = 0,
    /// Come back after the given time (M2); refused (M4).
    Refused = 1,
    /// The message is malformed, or of another version of this protocol.
    BadMessage = 2,
    /// Caller and callee are the same node.
    Yourself = 3,
}

/// How a run ended for a caller that was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairingFailure {
    /// The callee takes no runs for this many seconds.
    Later(u16),
    /// The callee is this node itself.
    Yourself,
    /// The callee does not know the password, or is not at the other end of this connection. It has
    /// learnt that the one password it tried is not this node's.
    WrongPassword,
    /// The callee broke the protocol; it has learnt nothing.
    BadMessage,
    /// The callee proved the password and yet refused this node.
    Refused,
}

/// The data that ties a run to one TLS connection.
#[derive(Debug, Clone)]
pub struct Binding {
    /// The key of the TLS client.
    pub caller: PeerId,
    /// The key of the TLS server.
    pub callee: PeerId,
    /// The secret from [`tls::exporter`](super::tls::exporter).
    pub exporter: [u8; 32],
}

impl Binding {
    /// Returns the OPAQUE context. All parts have fixed sizes, so no two bindings share one.
    fn context(&self) -> Vec<u8> {
        [
            ALPN_PAIR,
            self.caller.as_bytes(),
            self.callee.as_bytes(),
            &self.exporter,
        ]
        .concat()
    }
}

/// The caller, waiting for M2.
pub struct PairingCaller<'a> {
    credentials: &'a Credentials,
    binding: Binding,
    login: ClientLogin<Suite>,
}

impl<'a> PairingCaller<'a> {
    /// Starts a run; returns the state and M1. Fails only when the system is out of order.
    pub fn start(
        credentials: &'a Credentials,
        binding: Binding,
    ) -> Result<(Self, M1), ProtocolError> {
        let start = ClientLogin::<Suite>::start(&mut SystemRng, credentials.password.as_bytes())?;
        let mut m1 = [VERSION; size_of::<M1>()];
        m1[1..].copy_from_slice(&start.message.serialize());
        let caller = Self {
            credentials,
            binding,
            login: start.state,
        };
        Ok((caller, m1))
    }

    /// Consumes M2 and creates M3. After an error nothing more may be sent.
    pub fn receive(self, m2: &M2) -> Result<(Confirming, M3), PairingFailure> {
        let [status, after_high, after_low, ke2 @ ..] = m2;
        match *status {
            0 => {}
            1 => {
                return Err(PairingFailure::Later(
                    u16::from_be_bytes([*after_high, *after_low]).max(1),
                ));
            }
            3 => return Err(PairingFailure::Yourself),
            _ => return Err(PairingFailure::BadMessage),
        }
        let ke2 = CredentialResponse::deserialize(ke2).map_err(|_| PairingFailure::BadMessage)?;
        let context = self.binding.context();
        let finish = self
            .login
            .finish(
                &mut SystemRng,
                self.credentials.password.as_bytes(),
                ke2,
                ClientLoginFinishParameters::new(
                    Some(&context),
                    identifiers(&self.binding.callee),
                    None,
                ),
            )
            .map_err(|_| PairingFailure::WrongPassword)?;
        let callee = self.binding.callee;
        Ok((Confirming { callee }, finish.message.serialize().into()))
    }
}

/// The caller, which has verified that the callee knows the password, waiting for M4.
#[derive(Debug)]
pub struct Confirming {
    callee: PeerId,
}

impl Confirming {
    /// Consumes M4; returns the key that has proved the password.
    pub fn receive(self, m4: M4) -> Result<PeerId, PairingFailure> {
        match m4 {
            [0] => Ok(self.callee),
            _ => Err(PairingFailure::Refused),
        }
    }
}

/// A valid M1. Making one costs two point decompressions and gives the caller nothing.
pub struct Opening(CredentialRequest<Suite>);

impl Opening {
    /// Reads M1; the error is the status to refuse it with.
    pub fn read(m1: &M1) -> Result<Self, PairingStatus> {
        let [version, ke1 @ ..] = m1;
        if *version != VERSION {
            return Err(PairingStatus::BadMessage);
        }
        CredentialRequest::deserialize(ke1)
            .map(Self)
            .map_err(|_| PairingStatus::BadMessage)
    }
}

/// The callee, waiting for M3.
pub struct Callee {
    binding: Binding,
    login: ServerLogin<Suite>,
}

impl Callee {
    /// Answers a valid M1 with M2. From here on the caller can test one guess, so the run must
    /// already have been charged to it.
    pub fn answer(
        credentials: &Credentials,
        binding: Binding,
        opening: Opening,
    ) -> Result<(Self, M2), ProtocolError> {
        let context = binding.context();
        let start = ServerLogin::start(
            &mut SystemRng,
            &credentials.setup,
            Some(credentials.record.clone()),
            opening.0,
            CREDENTIAL,
            parameters(&context, &binding),
        )?;
        let mut m2 = refusal(PairingStatus::Ok, 0);
        m2[3..].copy_from_slice(&start.message.serialize());
        let callee = Self {
            binding,
            login: start.state,
        };
        Ok((callee, m2))
    }

    /// Consumes M3; returns the key that has proved the password, or `None`.
    pub fn receive(self, m3: &M3) -> Option<PeerId> {
        let context = self.binding.context();
        let ke3 = CredentialFinalization::deserialize(m3).ok()?;
        self.login
            .finish(ke3, parameters(&context, &self.binding))
            .is_ok()
            .then_some(self.binding.caller)
    }
}

fn parameters<'a>(context: &'a [u8], binding: &'a Binding) -> ServerLoginParameters<'a, 'a> {
    ServerLoginParameters {
        context: Some(context),
        identifiers: identifiers(&binding.callee),
    }
}

/// Creates an M2 without a KE2.
pub fn refusal(status: PairingStatus, retry_after: u16) -> M2 {
    let mut m2 = [0; size_of::<M2>()];
    m2[0] = status as u8;
    m2[1..3].copy_from_slice(&retry_after.to_be_bytes());
    m2
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
