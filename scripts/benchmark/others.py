"""What people use today: curl and rclone from an https nginx, sshfs, and rsync over ssh.

Each runs on loopback from a directory of its own, with keys made for this run, and as it comes from
Debian but for one thing: nginx and whoever asks it are held to the cipher that TinyP2P's nodes agree on.
Where a server's program is not installed, its context manager gives None.
"""

import os
import pwd
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from processes import eventually, is_listening, mounted, run, running
from tinyp2p import free_port
from tools import CONTENDERS, missing

CIPHER = "TLS_AES_128_GCM_SHA256"

NGINX = """
daemon off;
user root;
worker_processes auto;
pid {home}/pid;
error_log stderr;
events {{ worker_connections 768; }}
http {{
    sendfile on;
    tcp_nopush on;
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {home}/certificate;
        ssl_certificate_key {home}/key;
        ssl_protocols TLSv1.3;
        ssl_conf_command Ciphersuites {cipher};
        root {root};
        autoindex on;
    }}
}}
"""

SSHD = """
Port {port}
ListenAddress 127.0.0.1
HostKey {home}/host
PidFile none
AuthorizedKeysFile {home}/user.pub
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp /usr/lib/openssh/sftp-server
"""

SSH = """
Host 127.0.0.1
    Port {port}
    User {user}
    IdentityFile {home}/user
    IdentitiesOnly yes
    UserKnownHostsFile {home}/known
    StrictHostKeyChecking yes
    BatchMode yes
"""


@dataclass
class Nginx:
    """An https server."""

    home: Path
    port: int

    @property
    def url(self):
        return f"https://127.0.0.1:{self.port}"

    @property
    def curl_alone(self):
        """curl, without what it is to fetch."""
        trust = ["--cacert", self.home / "certificate", "--tls13-ciphers", CIPHER]
        return ["curl", "-q", "-fsS", *trust]

    def curl(self, name, port=None, target="/dev/null"):
        """Fetches a file and throws it away; by another port if that leads here, too."""
        url = f"https://127.0.0.1:{port or self.port}/{name}"
        return [*self.curl_alone, "-o", target, url]

    def rclone(self, home):
        """How rclone is told of this server."""
        return [
            *("--http-url", self.url, "--ca-cert", self.home / "certificate"),
            *("--config", home / "configuration", "--cache-dir", home / "cache"),
        ]


@contextmanager
def nginx(space, root):
    if missing(("nginx", "openssl")):
        yield None
        return
    home = space.directory("nginx")
    make_certificate(home)
    port = free_port()
    configuration = home / "configuration"
    configuration.write_text(NGINX.format(home=home, port=port, root=root, cipher=CIPHER))
    command = ["nginx", "-e", "stderr", "-p", home, "-c", configuration]
    with running(command, home / "log") as daemon:
        eventually("nginx listens", lambda: is_listening(f"127.0.0.1:{port}"), daemons=[daemon])
        yield Nginx(home, port)


def make_certificate(home):
    run(
        [
            *("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=tinyp2p-bench"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", home / "key", "-out", home / "certificate"),
        ]
    )


@contextmanager
def rclone(space, server, ready):
    """A new rclone mount of an Nginx; gives its mountpoint."""
    home = space.directory("rclone")
    mountpoint = home / "mnt"
    command = ["rclone", "mount", ":http:", mountpoint, "--read-only", *server.rclone(home)]
    with mounted(command, mountpoint, ready, home / "log", {"HOME": str(home)}):
        yield mountpoint


@dataclass
class Sshd:
    """An ssh server that lets this user in."""

    home: Path

    @property
    def configuration(self):
        """That of ssh, by which it is found."""
        return self.home / "ssh_config"


@contextmanager
def sshd(space):
    if missing(("sshd", "ssh-keygen")):
        yield None
        return
    home = space.directory("sshd")
    port = free_port()
    for key in "host", "user":
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", home / key])
    host_key = (home / "host.pub").read_text()
    (home / "known").write_text(f"[127.0.0.1]:{port} {host_key}")
    (home / "sshd_config").write_text(SSHD.format(home=home, port=port))
    user = pwd.getpwuid(os.getuid()).pw_name
    (home / "ssh_config").write_text(SSH.format(home=home, port=port, user=user))
    with separation_directory():
        command = ["/usr/sbin/sshd", "-D", "-e", "-f", home / "sshd_config"]
        with running(command, home / "log") as daemon:
            eventually("sshd listens", lambda: is_listening(f"127.0.0.1:{port}"), daemons=[daemon])
            yield Sshd(home)


@contextmanager
def separation_directory(path=Path("/run/sshd")):
    """sshd wants this directory, which only its system service makes."""
    if path.exists():
        yield
        return
    path.mkdir(mode=0o755)
    try:
        yield
    finally:
        path.rmdir()


@contextmanager
def sshfs(space, server, directory, ready):
    """A new sshfs mount of a directory by an Sshd; gives its mountpoint."""
    home = space.directory("sshfs")
    mountpoint = home / "mnt"
    command = [
        *("sshfs", "-f", "-F", server.configuration, "-o", "ro"),
        *(f"127.0.0.1:{directory}", mountpoint),
    ]
    with mounted(command, mountpoint, ready, home / "log"):
        yield mountpoint


MAILBOX_PORT, TRANSIT_PORT = 4000, 4001


@dataclass
class Wormhole:
    """The servers of magic-wormhole: by one its programs agree on a key, by the other they send."""

    space: object
    address: str

    @property
    def alone(self):
        """wormhole, without what it is to do."""
        return [
            *("wormhole", "--relay-url", f"ws://{self.address}:{MAILBOX_PORT}/v1"),
            *("--transit-helper", f"tcp:{self.address}:{TRANSIT_PORT}"),
        ]

    @contextmanager
    def sending(self, path, inside):
        """Offers a file from a host for the length of a `with` block; gives the code to fetch it by."""
        home = self.space.directory("wormhole")
        # Nobody here guesses, and the first part must be another each time.
        code = f"{next(self.space.numbers)}-violet-anchor"
        command = [*self.alone, "send", "--hide-progress", "--code", code, path]
        with running([*inside, *command], home / "log", {"HOME": str(home)}) as daemon:
            offered = lambda: code in (home / "log").read_text()
            eventually("wormhole send offers the file", offered, daemons=[daemon])
            daemon.settle()
            yield code

    def receive(self, code, target):
        return [*self.alone, "receive", "--hide-progress", "--accept-file", "-o", target, code]


@contextmanager
def wormhole(space, host):
    """Both servers, on a host of a network of its own."""
    if missing(CONTENDERS["wormhole"]):
        yield None
        return
    home = space.directory("wormhole")
    at = lambda port: f"tcp:{port}:interface={host.address}"
    mailbox = ["wormhole-mailbox", "--port", at(MAILBOX_PORT), "--channel-db", home / "channels"]
    transit = ["transitrelay", "--port", at(TRANSIT_PORT)]
    with ExitStack() as stack:
        for server, port in (mailbox, MAILBOX_PORT), (transit, TRANSIT_PORT):
            command = [*host.inside, "twist3", *server]
            daemon = stack.enter_context(running(command, home / f"log-{port}"))
            there = lambda port=port: is_listening(f"{host.address}:{port}", host.inside)
            eventually(f"{server[0]} listens", there, daemons=[daemon])
        yield Wormhole(space, host.address)
