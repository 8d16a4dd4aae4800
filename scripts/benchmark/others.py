"""What people use today: curl and rclone from an https nginx, and sshfs.

Each runs on loopback from a directory of its own, with keys made for this run, and as it comes from
Debian: no option here makes one of them faster or slower.
"""

import os
import pwd
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from processes import eventually, is_listening, mounted, run, running
from tinyp2p import free_port

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

    def curl(self, name, port=None):
        """Fetches a file and throws it away; by another port if that leads here, too."""
        url = f"https://127.0.0.1:{port or self.port}/{name}"
        return ["curl", "-q", "-fsS", "--cacert", self.home / "certificate", "-o", "/dev/null", url]


@contextmanager
def nginx(space, root):
    home = space.directory("nginx")
    make_certificate(home)
    port = free_port()
    configuration = home / "configuration"
    configuration.write_text(NGINX.format(home=home, port=port, root=root))
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
    command = [
        *("rclone", "mount", ":http:", mountpoint, "--read-only"),
        *("--http-url", f"https://127.0.0.1:{server.port}"),
        *("--ca-cert", server.home / "certificate"),
        *("--config", home / "configuration", "--cache-dir", home / "cache"),
    ]
    with mounted(command, mountpoint, ready, home / "log", {"HOME": str(home)}):
        yield mountpoint


@dataclass
class Sshd:
    """An ssh server that lets this user in."""

    home: Path


@contextmanager
def sshd(space):
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
        *("sshfs", "-f", "-F", server.home / "ssh_config", "-o", "ro"),
        *(f"127.0.0.1:{directory}", mountpoint),
    ]
    with mounted(command, mountpoint, ready, home / "log"):
        yield mountpoint
