//! The password in the form that OPAQUE (RFC 9807) works with.
//!
//! OPAQUE has a client, which has a password, and a server, which has a record of it. Here every
//! node is both: at start it makes fresh server keys and registers the stretched password with
//! itself, so its record exists in its memory only and is worthless anywhere else. The key
//! stretching function inside OPAQUE is the identity, because Argon2id has already run, once per
//! process instead of once per run.
//!
//! All members log in as the same OPAQUE client, so only the server side has an identifier of its
//! own (the node's TLS key, which also seals the envelope to it). The context of each run
//! ([`pair`](super::pair)) distinguishes the callers.

use opaque_ke::errors::ProtocolError;
use opaque_ke::rand::{CryptoRng, Error as RandError, RngCore};
use opaque_ke::{
    ClientRegistration, ClientRegistrationFinishParameters, Identifiers, Ristretto255,
    ServerRegistration, ServerSetup, TripleDh,
};

use super::password::Stretched;
use crate::model::PeerId;

/// ristretto255-SHA512 for the OPRF, 3DH over ristretto255 with SHA-512 for the key exchange:
/// the first configuration that RFC 9807, section 7, recommends, less its stretching function.
pub(super) struct Suite;

impl opaque_ke::CipherSuite for Suite {
    type OprfCs = Ristretto255;
    type KeyExchange = TripleDh<Ristretto255, sha2_010::Sha512>;
    type Ksf = opaque_ke::ksf::Identity;
}

/// The one "user" that every node has a record of: anyone who knows the network's password.
pub(super) const CREDENTIAL: &[u8] = b"tinyp2p-network";

/// Everything one node needs to pair, in both roles. Made once per process.
pub struct Credentials {
    pub(super) password: Stretched,
    pub(super) setup: ServerSetup<Suite>,
    pub(super) record: ServerRegistration<Suite>,
}

impl Credentials {
    /// Registers `password` with the node whose TLS key is `server`. Fails only when the system
    /// cannot provide random bytes.
    pub fn new(password: Stretched, server: PeerId) -> Result<Self, ProtocolError> {
        let setup = ServerSetup::<Suite>::new(&mut SystemRng);
        let request = ClientRegistration::<Suite>::start(&mut SystemRng, password.as_bytes())?;
        let response = ServerRegistration::start(&setup, request.message, CREDENTIAL)?;
        let upload = request.state.finish(
            &mut SystemRng,
            password.as_bytes(),
            response.message,
            ClientRegistrationFinishParameters::new(identifiers(&server), None),
        )?;
        Ok(Self {
            password,
            setup,
            record: ServerRegistration::finish(upload.message),
        })
    }
}

/// Returns the identifiers for every run with `server`, including registration: OPAQUE seals them
/// into the envelope and hashes them into the transcript. The client's identifier has its default,
/// the client key of the record.
pub(super) fn identifiers(server: &PeerId) -> Identifiers<'_> {
    Identifiers {
        client: None,
        server: Some(server.as_bytes()),
    }
}

/// Adapts the TLS provider's random numbers to the `rand` generation that `opaque-ke` uses.
pub(super) struct SystemRng;

impl RngCore for SystemRng {
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.fill_bytes(&mut bytes);
        u32::from_ne_bytes(bytes)
    }

    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill_bytes(&mut bytes);
        u64::from_ne_bytes(bytes)
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        // The trait cannot report a failure, and going on without randomness would be worse.
        aws_lc_rs::rand::fill(dest).expect("the system gives random bytes");
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), RandError> {
        self.fill_bytes(dest);
        Ok(())
    }
}

impl CryptoRng for SystemRng {}
