//! Which certificates of relays are believed: those that a public authority vouches for, and those
//! that a ticket or a member names by their SHA-256.
//!
//! A relay is never more than the network between two members. So a member that names a wrong
//! certificate gains nothing that it could not do as a relay itself.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use iroh::tls::CaTlsConfig;
use parking_lot::RwLock;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};
use sha2::{Digest, Sha256};

use crate::model::{OwnRelay, Relay};

/// The maximum number of relays whose certificates are pinned. Members can name as many as they
/// like, and those that are already known stay.
const MAX_PINNED: usize = 256;

/// The certificates that were named, by the host that shows them.
#[derive(Default)]
pub(super) struct PinnedCertificates {
    of: RwLock<HashMap<String, [u8; 32]>>,
}

impl PinnedCertificates {
    /// Believes the certificates that `relays` name, unless another is known for the same host.
    pub(super) fn learn<'a>(&self, relays: impl IntoIterator<Item = &'a Relay>) {
        for relay in relays {
            let Relay::Own(OwnRelay {
                address,
                certificate: Some(certificate),
                ..
            }) = relay
            else {
                continue;
            };
            let mut of = self.of.write();
            if of.len() < MAX_PINNED || of.contains_key(&address.host) {
                of.entry(address.host.clone()).or_insert(*certificate);
            }
        }
    }

    /// Returns the engine's setting.
    pub(super) fn config(self: Arc<Self>) -> CaTlsConfig {
        CaTlsConfig::custom_server_cert_verifier(Arc::new(move |provider: Arc<CryptoProvider>| {
            let public = CaTlsConfig::embedded().server_cert_verifier(provider)?;
            let pinned = Arc::clone(&self);
            Ok(Arc::new(RelayVerifier { pinned, public }) as Arc<dyn ServerCertVerifier>)
        }))
    }

    fn get(&self, name: &ServerName<'_>) -> Option<[u8; 32]> {
        self.of.read().get(&*name.to_str()).copied()
    }
}

impl fmt::Debug for PinnedCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PinnedCertificates")
    }
}

/// Compares certificates that were named. All else is the business of the usual verifier.
#[derive(Debug)]
struct RelayVerifier {
    pinned: Arc<PinnedCertificates>,
    public: Arc<dyn ServerCertVerifier>,
}

impl ServerCertVerifier for RelayVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(pinned) = self.pinned.get(server_name) else {
            return self.public.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            );
        };
        let shown: [u8; 32] = Sha256::digest(end_entity).into();
        if shown == pinned {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.public.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.public.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.public.supported_verify_schemes()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::RelayAccess;

    fn relay(host: &str, digit: char) -> Relay {
        let digits: String = std::iter::repeat_n(digit, 64).collect();
        let text = format!("https://{host}/#sha256={digits}");
        text.parse::<RelayAccess>().unwrap().relay
    }

    fn verify(pinned: &Arc<PinnedCertificates>, host: &str, shown: &[u8]) -> bool {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = Arc::clone(pinned).config();
        let verifier = config.server_cert_verifier(provider).unwrap();
        let certificate = CertificateDer::from(shown.to_vec());
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let now = UnixTime::now();
        let verdict = verifier.verify_server_cert(&certificate, &[], &name, &[], now);
        verdict.is_ok()
    }

    #[test]
    fn named_certificate_alone_is_believed() {
        let pinned = Arc::new(PinnedCertificates::default());
        let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(b"right"));
        let text = format!("https://192.0.2.1/#sha256={digest}");
        pinned.learn([&text.parse::<RelayAccess>().unwrap().relay]);
        assert!(verify(&pinned, "192.0.2.1", b"right"));
        assert!(!verify(&pinned, "192.0.2.1", b"wrong"));
        assert!(!verify(&pinned, "192.0.2.2", b"right"));
    }

    #[test]
    fn later_claims_do_not_replace_the_first() {
        let pinned = PinnedCertificates::default();
        pinned.learn([&relay("relay.example", '1'), &relay("relay.example", '2')]);
        let name = ServerName::try_from("relay.example").unwrap();
        assert_eq!(pinned.get(&name), Some([0x11; 32]));
        let many: Vec<_> = (0..2 * MAX_PINNED)
            .map(|n| relay(&format!("r{n}.example"), '3'))
            .collect();
        pinned.learn(&many);
        assert_eq!(pinned.of.read().len(), MAX_PINNED);
    }
}
