//! Peers of our own making: a stranger who speaks TLS with a key of his own, a relay that ends TLS
//! on both sides, and a forwarder that passes bytes on unchanged.
//!
//! None of them knows the password or uses the program's own code. They accept any key that the
//! other side shows, as an attacker would.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{default_provider, sign::any_eddsa_type};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    ServerConnection, SignatureScheme, StreamOwned,
};
use socket2::{Domain, Socket, Type};

/// ALPN name of the pairing protocol.
pub(crate) const PAIR: &str = "tinyp2p-pair/1";

/// ALPN name of the protocol between members.
pub(crate) const HTTP: &str = "tinyp2p-http/1";

/// OPAQUE messages need points on the curve: this is the base point of ristretto255.
const POINT: [u8; 32] = *b"\xe2\xf2\xae\x0a\x6a\xbc\x4e\x71\xa8\x84\xa9\x61\xc5\x00\x51\x5f\
    \x58\xe3\x0b\x6a\xa5\x82\xdd\x8d\xb6\xa6\x59\x45\xe0\x8d\x2d\x76";

/// The lengths of the first two messages of a pairing run (PROTOCOL.md, section 3.2).
const M1: usize = 97;
const M2: usize = 323;

/// Time limit for a single socket operation.
const LIMIT: Duration = Duration::from_secs(20);

/// A TLS connection of a stranger to a node.
pub(crate) type Connection = StreamOwned<ClientConnection, TcpStream>;

/// An Ed25519 key that no node knows.
pub(crate) struct Stranger {
    key: Arc<CertifiedKey>,
    provider: Arc<CryptoProvider>,
}

impl Stranger {
    /// Creates a new random key.
    pub(crate) fn new() -> Self {
        // PKCS #8 (RFC 8410, section 7): the frame, then the seed.
        let mut pkcs8 = *b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20\
            ................................";
        let mut random = File::open("/dev/urandom").expect("open /dev/urandom");
        random
            .read_exact(&mut pkcs8[16..])
            .expect("read /dev/urandom");
        let key = any_eddsa_type(&PrivatePkcs8KeyDer::from(&pkcs8[..])).expect("a key");
        let public = key.public_key().expect("its public half");
        let shown = CertificateDer::from(public.as_ref().to_vec());
        Self {
            key: Arc::new(CertifiedKey::new(vec![shown], key)),
            provider: Arc::new(default_provider()),
        }
    }

    /// Connects to a node over TLS with the protocol `alpn`.
    pub(crate) fn connect(&self, address: SocketAddr, alpn: &str) -> io::Result<Connection> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone))
            .with_client_cert_resolver(Arc::new(
                rustls::client::AlwaysResolvesClientRawPublicKeys::new(Arc::clone(&self.key)),
            ));
        config.alpn_protocols = vec![alpn.into()];
        config.enable_sni = false;
        let name = ServerName::from(IpAddr::from(Ipv4Addr::LOCALHOST));
        let tls = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        let socket = TcpStream::connect_timeout(&address, LIMIT)?;
        let mut connection = StreamOwned::new(tls, bounded(socket)?);
        connection.conn.complete_io(&mut connection.sock)?;
        Ok(connection)
    }

    /// Sends `request` and returns everything received before the connection ends.
    pub(crate) fn ask(&self, address: SocketAddr, alpn: &str, request: &[u8]) -> Vec<u8> {
        let mut connection = self.connect(address, alpn).expect("connect");
        // The node may answer and close before it has received all of this.
        let _ = connection.write_all(request);
        let _ = connection.flush();
        read_all(&mut connection)
    }

    /// Returns its peer id as text.
    pub(crate) fn peer_id(&self) -> String {
        let shown = self.key.cert.first().expect("a key");
        // The last 32 bytes are the key itself (RFC 8410, section 4).
        let key = shown.last_chunk::<32>().expect("a whole key");
        let bits = key
            .iter()
            .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
        let bits: Vec<u8> = bits.collect();
        let digit = |bits: &[u8]| {
            let padded = bits.iter().chain([0; 5].iter()).take(5);
            padded.fold(0, |number, bit| number << 1 | usize::from(*bit))
        };
        let digits = bits.chunks(5).map(digit);
        digits
            .map(|digit| char::from(b"abcdefghijklmnopqrstuvwxyz234567"[digit]))
            .collect()
    }

    /// Begins to pair. Returns the connection, and from M2 the status and when to come back.
    pub(crate) fn begin_pairing(&self, address: SocketAddr) -> (Connection, u8, u16) {
        let mut connection = self.connect(address, PAIR).expect("connect");
        let m1 = [&[1][..], &POINT, &[7; 32], &POINT].concat();
        assert_eq!(m1.len(), M1);
        connection.write_all(&m1).expect("send M1");
        connection.flush().expect("send M1");
        let mut m2 = [0; M2];
        connection.read_exact(&mut m2).expect("read M2");
        (connection, m2[0], u16::from_be_bytes([m2[1], m2[2]]))
    }

    fn accept(&self, socket: TcpStream) -> io::Result<StreamOwned<ServerConnection, TcpStream>> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_client_cert_verifier(Arc::new(Anyone))
            .with_cert_resolver(Arc::new(
                rustls::server::AlwaysResolvesServerRawPublicKeys::new(Arc::clone(&self.key)),
            ));
        config.alpn_protocols = vec![PAIR.into(), HTTP.into()];
        let tls = ServerConnection::new(Arc::new(config)).map_err(io::Error::other)?;
        let mut connection = StreamOwned::new(tls, bounded(socket)?);
        connection.conn.complete_io(&mut connection.sock)?;
        Ok(connection)
    }
}

/// Reads all that `from` sends before it ends, however it ends.
pub(crate) fn read_all(from: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return bytes,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) if is_timeout(&error) => panic!("no end within {LIMIT:?}: {bytes:?}"),
            Err(_) => return bytes,
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn bounded(socket: TcpStream) -> io::Result<TcpStream> {
    socket.set_read_timeout(Some(LIMIT))?;
    socket.set_write_timeout(Some(LIMIT))?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// Accepts every key, even with an invalid signature.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Anyone {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Ends TLS on both sides with its own key and passes the decrypted bytes on unchanged.
pub(crate) struct Relay {
    address: SocketAddr,
    passed: Arc<AtomicU64>,
}

impl Relay {
    /// Starts to relay to `target`.
    pub(crate) fn to(target: SocketAddr) -> Self {
        let passed = Arc::new(AtomicU64::new(0));
        let (stranger, count) = (Arc::new(Stranger::new()), Arc::clone(&passed));
        let address = listen(move |socket| {
            let (stranger, count) = (Arc::clone(&stranger), Arc::clone(&count));
            // A failed connection is one that the relay could not use.
            let _ = relay(&stranger, socket, target, &count);
        });
        Self { address, passed }
    }

    /// Returns the address at which it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns how many decrypted bytes it has passed on, in both directions.
    pub(crate) fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }
}

/// Relays both directions in turn: the frames inside are few, small, and take turns themselves.
fn relay(
    stranger: &Stranger,
    socket: TcpStream,
    to: SocketAddr,
    count: &AtomicU64,
) -> io::Result<()> {
    let mut near = stranger.accept(socket)?;
    let alpn = near.conn.alpn_protocol().unwrap_or_default().to_vec();
    let mut far = stranger.connect(to, &String::from_utf8_lossy(&alpn))?;
    let turn = Some(Duration::from_millis(20));
    near.sock.set_read_timeout(turn)?;
    far.sock.set_read_timeout(turn)?;
    while pass(&mut near, &mut far, count)? && pass(&mut far, &mut near, count)? {}
    near.conn.send_close_notify();
    near.flush()
}

/// Passes on the bytes that arrive within one turn; returns false at the end.
fn pass(from: &mut impl Read, to: &mut impl Write, count: &AtomicU64) -> io::Result<bool> {
    let mut buffer = [0; 16 * 1024];
    match from.read(&mut buffer) {
        Ok(0) => Ok(false),
        Ok(length) => {
            count.fetch_add(length as u64, Ordering::Relaxed);
            to.write_all(&buffer[..length])?;
            to.flush()?;
            Ok(true)
        }
        Err(error) if is_timeout(&error) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Passes TCP on unchanged, from a source address that the test chooses.
pub(crate) struct Forwarder {
    address: SocketAddr,
}

impl Forwarder {
    /// Starts to forward to `target`, which sees `source` as the origin of the connections.
    pub(crate) fn new(source: Ipv4Addr, target: SocketAddr) -> Self {
        let address = listen(move |near| {
            let _ = forward(near, source, target);
        });
        Self { address }
    }

    /// Returns the address at which it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

fn forward(near: TcpStream, source: Ipv4Addr, target: SocketAddr) -> io::Result<()> {
    let far = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    far.bind(&SocketAddr::from((source, 0)).into())?;
    far.connect(&target.into())?;
    let far = TcpStream::from(far);
    let (near_too, far_too) = (near.try_clone()?, far.try_clone()?);
    let back = thread::spawn(move || copy(far_too, near_too));
    copy(near, far);
    let _ = back.join();
    Ok(())
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

/// Answers every peer that pairs with it, and so gets a guess at the password from each.
pub(crate) struct Impostor {
    peer_id: String,
    guesses: Arc<AtomicU64>,
}

impl Impostor {
    /// Starts an impostor on all of these listeners.
    pub(crate) fn on(listeners: impl IntoIterator<Item = TcpListener>) -> Self {
        let stranger = Arc::new(Stranger::new());
        let guesses = Arc::new(AtomicU64::new(0));
        for listener in listeners {
            let (stranger, count) = (Arc::clone(&stranger), Arc::clone(&guesses));
            serve(listener, move |socket| {
                // A failed connection gave no guess.
                let _ = answer(&stranger, socket, &count);
            });
        }
        Self {
            peer_id: stranger.peer_id(),
            guesses,
        }
    }

    /// Returns the peer id that it claims, which is its own.
    pub(crate) fn peer_id(&self) -> &str {
        &self.peer_id
    }

    /// Returns the number of guesses that it got.
    pub(crate) fn guesses(&self) -> u64 {
        self.guesses.load(Ordering::Relaxed)
    }
}

fn answer(stranger: &Stranger, socket: TcpStream, guesses: &AtomicU64) -> io::Result<()> {
    let mut connection = stranger.accept(socket)?;
    if connection.conn.alpn_protocol() != Some(PAIR.as_bytes()) {
        return Ok(());
    }
    connection.read_exact(&mut [0; M1])?;
    let m2 = [&[0; 3][..], &POINT, &[7; 32 + 128 + 32], &POINT, &[7; 64]].concat();
    assert_eq!(m2.len(), M2);
    connection.write_all(&m2)?;
    connection.flush()?;
    guesses.fetch_add(1, Ordering::Relaxed);
    read_all(&mut connection);
    Ok(())
}

/// Handles each connection to a new port on its own thread, for as long as the test runs.
fn listen(handle: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
    let address = listener.local_addr().expect("see the port");
    serve(listener, handle);
    address
}

fn serve(listener: TcpListener, handle: impl Fn(TcpStream) + Send + Sync + 'static) {
    let handle = Arc::new(handle);
    thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let handle = Arc::clone(&handle);
            thread::spawn(move || handle(socket));
        }
    });
}
