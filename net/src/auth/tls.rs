//! The TLS configuration for both sides of every connection.
//!
//! TLS 1.3 only. Both sides show a bare Ed25519 public key (RFC 7250) and prove that they hold the
//! private one; there are no certificates, names or authorities. TLS says *which* key is at the
//! other end; [`Admission`](super::Admission) decides whether that key may do anything. Sessions
//! are never resumed and no early data is sent, so every connection proves its key again.
//!
//! There are two application protocols (ALPN): strangers may speak [`ALPN_PAIR`] only, members
//! speak [`ALPN_HTTP`]. Callers must check which one was negotiated, because TLS accepts a side
//! that offers none.

use std::sync::Arc;

use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::{
    CertificateError, ClientConfig, ConnectionCommon, DigitallySignedStruct, DistinguishedName,
    ServerConfig, SignatureScheme, SupportedCipherSuite,
};

use super::identity::Identity;
use super::spki::parse_spki;
use crate::error::Error;
use crate::model::PeerId;

/// The application protocol of a pairing run.
pub const ALPN_PAIR: &[u8] = b"tinyp2p-pair/1";

/// The application protocol between members.
pub const ALPN_HTTP: &[u8] = b"tinyp2p-http/1";

/// The protocol that a client requests when it dials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    /// The pairing protocol, [`ALPN_PAIR`].
    Pair,
    /// The members' protocol, [`ALPN_HTTP`].
    Http,
}

impl Alpn {
    /// Returns the protocol's name on the wire.
    pub fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Pair => ALPN_PAIR,
            Self::Http => ALPN_HTTP,
        }
    }
}

/// Configures the accepting side: both protocols, the caller's key mandatory.
pub fn server_config(identity: &Identity) -> Result<Arc<ServerConfig>, Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .with_client_cert_verifier(Arc::new(RawKeys::new()))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(
            identity.certified_key(),
        )));
    config.alpn_protocols = vec![ALPN_HTTP.to_vec(), ALPN_PAIR.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// Configures the dialling side, for one protocol.
pub fn client_config(identity: &Identity, alpn: Alpn) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(RawKeys::new()))
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(
            identity.certified_key(),
        )));
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    config.enable_sni = false;
    config.enable_early_data = false;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// Returns the key that the other side has proved to hold, from a finished handshake's
/// `peer_certificates()`; `None` before the handshake is done.
pub fn peer_id(certificates: Option<&[CertificateDer<'_>]>) -> Option<PeerId> {
    match certificates? {
        [key] => parse_spki(key),
        _ => None,
    }
}

/// Returns 32 bytes that only the two ends of this connection know (RFC 8446, section 7.5).
pub fn exporter<Data>(connection: &ConnectionCommon<Data>) -> Result<[u8; 32], rustls::Error> {
    connection.export_keying_material([0; 32], b"EXPORTER-tinyp2p-pair-1", None)
}

/// Returns the cryptography to use. AES comes first, as nearly all hosts that serve files today
/// have it in hardware; ChaCha20 stays for those that do not. The hybrid key exchange comes first,
/// so that future quantum computers cannot decrypt traffic recorded today.
fn provider() -> Arc<CryptoProvider> {
    let [aes_128, aes_256] = aes_suites(Processor::this());
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            aes_128,
            aes_256,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519],
        ..aws_lc_rs::default_provider()
    })
}

/// What a processor has for AES-GCM.
#[derive(Clone, Copy)]
struct Processor {
    /// AES and carry-less multiplication over whole vectors of 256 bits (VAES, VPCLMULQDQ, AVX2).
    has_wide_aes: bool,
    has_avx512: bool,
}

impl Processor {
    /// Returns what this processor has.
    fn this() -> Self {
        #[cfg(target_arch = "x86_64")]
        return Self {
            has_wide_aes: std::arch::is_x86_feature_detected!("vaes")
                && std::arch::is_x86_feature_detected!("vpclmulqdq")
                && std::arch::is_x86_feature_detected!("avx2"),
            has_avx512: std::arch::is_x86_feature_detected!("avx512f"),
        };
        #[cfg(not(target_arch = "x86_64"))]
        Self {
            has_wide_aes: false,
            has_avx512: false,
        }
    }

    /// Returns true where ring has the faster AES-GCM, by up to a factor of two: aws-lc uses wide
    /// AES only together with AVX-512, which laptops rarely have.
    fn prefers_ring(self) -> bool {
        self.has_wide_aes && !self.has_avx512
    }
}

/// Returns AES-128-GCM and AES-256-GCM in the faster implementation for `processor`.
fn aes_suites(processor: Processor) -> [SupportedCipherSuite; 2] {
    #[cfg(target_arch = "x86_64")]
    if processor.prefers_ring() {
        use rustls::crypto::ring::cipher_suite;
        return [
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
        ];
    }
    let _ = processor;
    [
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
    ]
}

fn unusable(error: rustls::Error) -> Error {
    Error::local("TLS", error)
}

/// Accepts any Ed25519 key, provided the other side signs the handshake with it.
#[derive(Debug)]
struct RawKeys(CryptoProvider);

impl RawKeys {
    fn new() -> Self {
        Self(aws_lc_rs::default_provider())
    }

    fn check_form(&self, key: &[u8], further: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        if further.is_empty() && parse_spki(key).is_some() {
            Ok(())
        } else {
            Err(CertificateError::BadEncoding.into())
        }
    }

    fn check_signature(
        &self,
        message: &[u8],
        key: &[u8],
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature_with_raw_key(
            message,
            &SubjectPublicKeyInfoDer::from(key),
            signed,
            &self.0.signature_verification_algorithms,
        )
    }
}

/// The methods that the traits of both sides have in common: Ed25519 over TLS 1.3.
macro_rules! signatures_of_raw_keys {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _cert: &CertificateDer<'_>,
            _dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            // The traits require it, although nothing here calls it.
            Err(rustls::Error::General("TLS 1.2 is not spoken here".into()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            self.check_signature(message, cert, dss)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ED25519]
        }

        fn requires_raw_public_keys(&self) -> bool {
            true
        }
    };
}

impl ServerCertVerifier for RawKeys {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check_form(end_entity, intermediates)
            .map(|()| ServerCertVerified::assertion())
    }

    signatures_of_raw_keys!();
}

impl ClientCertVerifier for RawKeys {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check_form(end_entity, intermediates)
            .map(|()| ClientCertVerified::assertion())
    }

    signatures_of_raw_keys!();
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rustls::{
        CipherSuite, ClientConnection, HandshakeKind, NamedGroup, ServerConnection, SideData,
    };

    use super::*;
    use crate::auth::spki::spki;

    fn name() -> ServerName<'static> {
        ServerName::from(std::net::Ipv4Addr::LOCALHOST)
    }

    /// Passes pending TLS data from `from` to `to`.
    fn flow<A: SideData, B: SideData>(
        from: &mut ConnectionCommon<A>,
        to: &mut ConnectionCommon<B>,
    ) -> Result<(), rustls::Error> {
        let mut bytes = Vec::new();
        while from.wants_write() {
            from.write_tls(&mut bytes).unwrap();
        }
        let mut bytes = &bytes[..];
        while !bytes.is_empty() {
            to.read_tls(&mut bytes).unwrap();
            to.process_new_packets()?;
        }
        Ok(())
    }

    fn handshake(
        client: Arc<ClientConfig>,
        server: Arc<ServerConfig>,
    ) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
        let mut client = ClientConnection::new(client, name()).unwrap();
        let mut server = ServerConnection::new(server).unwrap();
        for _ in 0..4 {
            flow(&mut client, &mut server)?;
            flow(&mut server, &mut client)?;
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        Ok((client, server))
    }

    fn identities() -> (Identity, Identity) {
        (
            Identity::ephemeral().unwrap(),
            Identity::ephemeral().unwrap(),
        )
    }

    fn pair_config(identity: &Identity) -> Arc<ClientConfig> {
        client_config(identity, Alpn::Pair).unwrap()
    }

    #[test]
    fn each_side_learns_peer_key_and_protocol() {
        let (a, b) = identities();
        for alpn in [Alpn::Pair, Alpn::Http] {
            let (client, server) =
                handshake(client_config(&a, alpn).unwrap(), server_config(&b).unwrap()).unwrap();
            assert_eq!(peer_id(client.peer_certificates()), Some(b.id()));
            assert_eq!(peer_id(server.peer_certificates()), Some(a.id()));
            assert_eq!(client.alpn_protocol(), Some(alpn.as_bytes()));
            assert_eq!(server.alpn_protocol(), Some(alpn.as_bytes()));
            assert_eq!(server.server_name(), None);
        }
    }

    #[test]
    fn fastest_suite_and_hybrid_kex_are_agreed() {
        let (a, b) = identities();
        let (client, _server) = handshake(pair_config(&a), server_config(&b).unwrap()).unwrap();
        let suite = client.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(suite, CipherSuite::TLS13_AES_128_GCM_SHA256);
        let group = client.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, NamedGroup::X25519MLKEM768);
    }

    #[test]
    fn ring_has_aes_where_aws_lc_needs_avx512() {
        for (has_wide_aes, has_avx512, ring) in [
            (true, false, true),
            (true, true, false),
            (false, false, false),
            (false, true, false),
        ] {
            let processor = Processor {
                has_wide_aes,
                has_avx512,
            };
            assert_eq!(processor.prefers_ring(), ring);
            let suites = aes_suites(processor).map(|suite| suite.suite());
            let same = [
                CipherSuite::TLS13_AES_128_GCM_SHA256,
                CipherSuite::TLS13_AES_256_GCM_SHA384,
            ];
            assert_eq!(suites, same, "whoever implements them");
        }
    }

    #[test]
    fn key_without_its_private_half_is_refused() {
        let (a, b) = identities();
        let thief = Identity::posing_as(a.id());
        assert!(handshake(pair_config(&thief), server_config(&b).unwrap()).is_err());
        assert!(handshake(pair_config(&b), server_config(&thief).unwrap()).is_err());
        assert!(handshake(pair_config(&a), server_config(&b).unwrap()).is_ok());
    }

    #[test]
    fn a_caller_without_a_key_is_refused() {
        let (_, b) = identities();
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(RawKeys::new()))
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN_PAIR.to_vec()];
        assert!(handshake(Arc::new(config), server_config(&b).unwrap()).is_err());
    }

    #[test]
    fn caller_with_another_protocol_is_refused() {
        let (a, b) = identities();
        let mut config = ClientConfig::clone(&pair_config(&a));
        config.alpn_protocols = vec![b"h2".to_vec()];
        assert!(handshake(Arc::new(config), server_config(&b).unwrap()).is_err());
    }

    #[test]
    fn sessions_are_not_resumable() {
        let (a, b) = identities();
        let (client_config, server_config) = (pair_config(&a), server_config(&b).unwrap());
        for _ in 0..2 {
            let (client, server) = handshake(client_config.clone(), server_config.clone()).unwrap();
            assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
            assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
            assert_eq!(client.tls13_tickets_received(), 0);
        }
    }

    #[test]
    fn exported_bytes_are_per_connection() {
        let (a, b) = identities();
        let connect = || handshake(pair_config(&a), server_config(&b).unwrap()).unwrap();
        let (client, server) = connect();
        let (other, _) = connect();
        assert_eq!(exporter(&client).unwrap(), exporter(&server).unwrap());
        assert_ne!(exporter(&client).unwrap(), exporter(&other).unwrap());
    }

    #[test]
    fn tls_1_2_is_answered_with_an_alert() {
        let (_, b) = identities();
        let mut server = ServerConnection::new(server_config(&b).unwrap()).unwrap();
        // A ClientHello as in RFC 5246: version 3.3, ECDHE-ECDSA with AES-128-GCM, the groups and
        // signature schemes that are supported here, and no supported_versions extension.
        let mut hello = vec![3, 3];
        hello.extend([7; 32]);
        hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
        let extensions = [
            0, 10, 0, 4, 0, 2, 0, 0x1d, 0, 13, 0, 4, 0, 2, 8, 7, 0, 11, 0, 2, 1, 0,
        ];
        hello.extend([0, extensions.len() as u8]);
        hello.extend(extensions);
        let mut record = vec![0x16, 3, 1, 0, hello.len() as u8 + 4];
        record.extend([1, 0, 0, hello.len() as u8]);
        record.extend(hello);
        server.read_tls(&mut &record[..]).unwrap();
        let error = server.process_new_packets().unwrap_err();
        assert!(
            matches!(error, rustls::Error::PeerIncompatible(_)),
            "{error:?}"
        );
        let mut answer = Vec::new();
        server.write_tls(&mut answer).unwrap();
        // A fatal alert, protocol_version (70).
        assert_eq!(answer[0], 0x15);
        assert_eq!(answer[5..], [2, 70]);
    }

    #[test]
    fn one_encoding_of_a_key_is_accepted() {
        let id = PeerId::from_bytes([9; 32]);
        let good = spki(id);
        assert_eq!(parse_spki(&good), Some(id));
        let longer = [&good[..], &[0]].concat();
        let mut other_algorithm = good;
        other_algorithm[8] = 0x6e;
        for bad in [&[][..], &good[..43], &longer, &other_algorithm, &[0x30; 44]] {
            assert_eq!(parse_spki(bad), None);
            assert!(RawKeys::new().check_form(bad, &[]).is_err());
        }
        let key = CertificateDer::from(good.to_vec());
        assert!(RawKeys::new().check_form(&good, &[]).is_ok());
        assert!(
            RawKeys::new()
                .check_form(&good, std::slice::from_ref(&key))
                .is_err()
        );
        assert_eq!(peer_id(Some(std::slice::from_ref(&key))), Some(id));
        assert_eq!(peer_id(Some(&[key.clone(), key])), None);
        assert_eq!(peer_id(Some(&[])), None);
        assert_eq!(peer_id(None), None);
    }
}
