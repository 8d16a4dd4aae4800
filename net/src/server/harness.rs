//! Nodes for tests: a real server on 127.0.0.1 that shares a temporary directory, and raw TLS
//! connections to it that send what no client of ours would.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConnection, StreamOwned};
use tempfile::TempDir;

use super::{Server, ServerLimits};
use crate::auth::{AddressSource, Alpn, Gate, GuessRecord, Identity, Stretched};
use crate::client::http_peer::Client;
use crate::config::{Listen, ShareConfig};
use crate::content::cache::DiskCache;
use crate::error::Error;
use crate::legacy::server::LegacyServer;
use crate::legacy::{Legacy, TokenKey};
use crate::membership::Members;
use crate::membership::dialer::{Connect, MemberLink};
use crate::model::{Address, PeerId, RelPath, Version};
use crate::service::Service;
use crate::service::plaintext::PlaintextProtocol;
use crate::share::Share;
use crate::transport::dial::TcpDialer;

/// Tests that wait longer than this have failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn soon() -> Instant {
    Instant::now() + PATIENCE
}

impl Default for ServerLimits {
    /// Returns the limits where descriptors are plentiful.
    fn default() -> Self {
        Self::for_descriptors(u64::MAX)
    }
}

/// One node, running until this is dropped.
pub(crate) struct TestNode {
    pub(crate) gate: Arc<Gate>,
    pub(crate) service: Arc<Service>,
    directory: TempDir,
    state: TempDir,
    password: u8,
    server: Option<Server>,
}

impl TestNode {
    pub(crate) fn start(password: u8) -> Self {
        Self::limited(password, ServerLimits::default())
    }

    pub(super) fn limited(password: u8, limits: ServerLimits) -> Self {
        Self::offering(password, limits, |share, _| (Some(Arc::new(share)), None))
    }

    /// Starts a node that also speaks the protocol of 2004, in the network whose password is `pw`.
    pub(super) fn speaking_2004(limits: ServerLimits) -> Self {
        let legacy = Legacy::new(TokenKey::new(b"pw"), Vec::new());
        let offer = |share, _: &Path| (Some(Arc::new(share)), None);
        let server = |me| {
            let server = LegacyServer::new(Arc::new(legacy), me);
            Arc::new(server) as Arc<dyn PlaintextProtocol>
        };
        Self::with(1, limits, Some(server), offer)
    }

    /// Starts a node. `offer` creates its service from a share and a directory to keep things in.
    pub(super) fn offering(
        password: u8,
        limits: ServerLimits,
        offer: impl FnOnce(Share, &Path) -> (Option<Arc<Share>>, Option<Arc<DiskCache>>),
    ) -> Self {
        let nothing = None::<fn(PeerId) -> Arc<dyn PlaintextProtocol>>;
        Self::with(password, limits, nothing, offer)
    }

    fn with(
        password: u8,
        limits: ServerLimits,
        plaintext: Option<impl FnOnce(PeerId) -> Arc<dyn PlaintextProtocol>>,
        offer: impl FnOnce(Share, &Path) -> (Option<Arc<Share>>, Option<Arc<DiskCache>>),
    ) -> Self {
        let (directory, state) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let share = Share::open(&ShareConfig {
            directory: directory.path().into(),
            hidden: false,
            excluded: Vec::new(),
        });
        let gate = gate(state.path(), password);
        let members = Members::new(
            gate.id(),
            "test".into(),
            (None, None),
            &[],
            None,
            Box::new(Alone),
        );
        let (share, cache) = offer(share.unwrap(), state.path());
        let service = Service {
            share,
            cache,
            members: Arc::new(members.unwrap()),
            plaintext: plaintext.map(|plaintext| plaintext(gate.id())),
        };
        let mut node = Self {
            gate,
            service: Arc::new(service),
            directory,
            state,
            password,
            server: None,
        };
        node.serve(Listen::At("127.0.0.1:0".parse().unwrap()), limits);
        node
    }

    /// Restarts as a new process would: same identity, same port, nobody admitted.
    pub(crate) fn restart(&mut self) {
        let listen = Listen::At(([127, 0, 0, 1], self.port()).into());
        self.server = None;
        // A different key, until the old gate releases the lock on the file.
        self.gate = Arc::new(
            Gate::new(
                Identity::ephemeral().unwrap(),
                Stretched::for_tests(0),
                GuessRecord::in_memory(),
            )
            .unwrap(),
        );
        self.gate = gate(self.state.path(), self.password);
        self.serve(listen, ServerLimits::default());
    }

    fn serve(&mut self, listen: Listen, limits: ServerLimits) {
        let (service, gate) = (self.service.clone(), self.gate.clone());
        let server = Server::start_limited(&listen, service, gate, None, limits);
        self.server = Some(server.unwrap());
    }

    pub(crate) fn id(&self) -> PeerId {
        self.gate.id()
    }

    pub(crate) fn address(&self) -> Address {
        Address::new("127.0.0.1", self.port())
    }

    pub(crate) fn port(&self) -> u16 {
        self.server.as_ref().unwrap().local_port()
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Returns the directory where it keeps things.
    pub(super) fn state(&self) -> &Path {
        self.state.path()
    }

    /// Shares a file; returns its version.
    pub(crate) fn put(&self, name: &str, content: &[u8]) -> Version {
        std::fs::write(self.path().join(name), content).unwrap();
        self.version(name)
    }

    pub(crate) fn version(&self, name: &str) -> Version {
        let path = RelPath::new(name.as_bytes()).unwrap();
        let share = self.service.share.as_ref().unwrap();
        share
            .open_file(&path, crate::share::Asker::Nobody)
            .unwrap()
            .attributes()
            .version
    }

    /// Makes `other` and this node known to each other, as if they had paired.
    pub(crate) fn befriend(&self, other: &Gate) {
        let now = Instant::now();
        self.gate.admission().admit(other.id(), now);
        other.admission().admit(self.id(), now);
    }

    /// Opens a TLS connection for HTTP, in the name of `caller`.
    pub(crate) fn raw(&self, caller: &Gate) -> Raw {
        let socket = TcpStream::connect(("127.0.0.1", self.port())).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        let name = "node".try_into().unwrap();
        let tls = ClientConnection::new(caller.tls_client(Alpn::Http), name).unwrap();
        Raw(StreamOwned::new(tls, socket))
    }
}

/// A connector that dials nobody.
struct Alone;

impl Connect for Alone {
    fn connect(
        &self,
        address: &Address,
        _: Option<PeerId>,
        _: AddressSource,
        _: Instant,
    ) -> Result<Arc<dyn MemberLink>, Error> {
        Err(Error::unreachable(address, "this node dials nobody"))
    }
}

fn gate(state: &Path, password: u8) -> Arc<Gate> {
    let identity = Identity::load_or_create(state).unwrap();
    Arc::new(
        Gate::new(
            identity,
            Stretched::for_tests(password),
            GuessRecord::in_memory(),
        )
        .unwrap(),
    )
}

/// Returns the gate of a node that calls others and does not listen.
pub(crate) fn caller(password: u8) -> Arc<Gate> {
    let identity = Identity::ephemeral().unwrap();
    Arc::new(
        Gate::new(
            identity,
            Stretched::for_tests(password),
            GuessRecord::in_memory(),
        )
        .unwrap(),
    )
}

pub(crate) fn client(gate: &Arc<Gate>) -> Client {
    Client::new(gate.clone(), Arc::new(TcpDialer::default()), Arc::default())
}

/// A connection that anything can be sent over.
pub(crate) struct Raw(pub(crate) StreamOwned<ClientConnection, TcpStream>);

/// A response as it arrived.
#[derive(Debug)]
pub(crate) struct RawResponse {
    pub(crate) status: u16,
    /// The whole head, field names in lower case.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl RawResponse {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(n, _)| *n == name).map(|(_, value)| value)
    }
}

impl Raw {
    pub(crate) fn send(&mut self, text: &str) -> io::Result<()> {
        self.0.write_all(text.as_bytes())?;
        self.0.flush()
    }

    /// Sends a request line and fields (`\n` for line ends), and reads the response.
    pub(crate) fn ask(&mut self, request: &str) -> RawResponse {
        let text = format!("{request}\nHost: node\n\n").replace('\n', "\r\n");
        self.send(&text).unwrap();
        let mut response = self.head().unwrap();
        if !request.starts_with("HEAD") && !matches!(response.status, 204 | 304) {
            let length = response.field("content-length").unwrap().parse().unwrap();
            response.body = vec![0; length];
            self.0.read_exact(&mut response.body).unwrap();
        }
        response
    }

    /// Reads a response up to its body.
    pub(crate) fn head(&mut self) -> io::Result<RawResponse> {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte)?;
            bytes.push(byte[0]);
        }
        let text = String::from_utf8(bytes).unwrap();
        let lower = |line: &str| match line.split_once(": ") {
            Some((name, value)) => format!("{}: {value}\n", name.to_ascii_lowercase()),
            None => format!("{line}\n"),
        };
        Ok(RawResponse {
            status: text[9..12].parse().unwrap(),
            head: text.lines().map(lower).collect(),
            body: Vec::new(),
        })
    }

    /// Reads until the other side ends the connection, well or badly.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.0.read_to_end(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                panic!("the connection was left open")
            }
            _ => bytes,
        }
    }
}
