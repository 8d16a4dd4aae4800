//! Reading through the mount is faster than through the tools that people use today.
//!
//! The programs under test are those of the release profile, as users run them; they are built here
//! if they do not exist yet. `rclone` reads the same file from nginx over https on the same machine
//! in the same minute. The runs alternate, each with a fresh mount, and the medians are compared.

use std::fs::{self, File};
use std::io::Read;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::content::{MIB, write_pattern};
use crate::harness::process::{eventually, run, sh};
use crate::harness::swarm::{MOUNT, Swarm, detach, is_mounted, next_address};

const SIZE: u64 = 1024 * MIB;

const LIMIT: Duration = Duration::from_secs(60);

/// A helper process that is killed with the test and unmounts what it mounted.
struct Helper {
    child: Child,
    mountpoint: Option<PathBuf>,
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(mountpoint) = &self.mountpoint {
            detach(mountpoint);
        }
    }
}

#[test]
fn gibibyte_reads_faster_than_by_rclone() {
    let swarm = Swarm::alone();
    let release = release_programs();
    let a = swarm.node("a").release(&release).log_level("warn");
    write_pattern(&a.share().join("file"), 1, SIZE);
    // Loads the file into the page cache, for both servers alike.
    time_reading(&a.share().join("file"));
    let a = a.serve();
    let (_nginx, url) = nginx(&swarm, a.share());

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..3 {
        let node = swarm
            .node(&format!("mount {round}"))
            .release(&release)
            .log_level("warn");
        let node = node.peer(&a).mount();
        eventually(LIMIT, "the file is there", || node.at("file").exists());
        ours.push(time_reading(&node.at("file")));
        drop(node);
        let mountpoint = swarm.directory(&format!("rclone {round}"));
        let _rclone = rclone(&swarm, &url, &mountpoint);
        theirs.push(time_reading(&mountpoint.join("file")));
    }
    let (ours, theirs) = (median(ours), median(theirs));
    let rate = |time: Duration| SIZE as f64 / 1e6 / time.as_secs_f64();
    println!(
        "1 GiB through the mount: {:.0} MB/s; rclone: {:.0} MB/s",
        rate(ours),
        rate(theirs)
    );
    assert!(
        ours < theirs,
        "{ours:?} through the mount, {theirs:?} through rclone"
    );
}

/// Builds both programs in release mode, unless they exist, and returns their directory.
fn release_programs() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    build.args(["build", "--release", "--locked", "--bins", "--quiet"]);
    run(&mut build, Duration::from_secs(1800)).expect_success();
    // target/debug/tinyp2p-mount -> target/release
    let target = Path::new(MOUNT).parent().and_then(Path::parent);
    target.expect("the target directory").join("release")
}

fn time_reading(path: &Path) -> Duration {
    let start = Instant::now();
    let mut file = File::open(path).expect("open");
    let mut buffer = vec![0; MIB as usize];
    let mut total = 0;
    loop {
        match file.read(&mut buffer).expect("read") {
            0 => break,
            count => total += count as u64,
        }
    }
    assert_eq!(total, SIZE, "the whole of {path:?}");
    start.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Starts an https server for `directory`, with a certificate made for this test.
fn nginx(swarm: &Swarm, directory: &Path) -> (Helper, String) {
    let home = swarm.directory("nginx");
    let at = |name: &str| home.join(name).to_string_lossy().into_owned();
    sh(
        "openssl",
        &[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=localhost",
            "-keyout",
            &at("key"),
            "-out",
            &at("cert"),
        ],
    );
    let address = format!("{}:8443", next_address());
    let configuration = format!(
        "daemon off; master_process off; pid {pid}; error_log stderr;
         events {{ worker_connections 256; }}
         http {{
           access_log off; sendfile on;
           client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fcgi;
           uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
           server {{
             listen {address} ssl; ssl_certificate {cert}; ssl_certificate_key {key};
             ssl_protocols TLSv1.3; autoindex on; root {root};
           }}
         }}",
        pid = at("pid"),
        home = home.display(),
        cert = at("cert"),
        key = at("key"),
        root = directory.display(),
    );
    fs::write(home.join("conf"), configuration).expect("write");
    let child = Command::new("nginx")
        .args(["-e", "stderr", "-c", &at("conf")])
        .spawn()
        .expect("start nginx");
    let helper = Helper {
        child,
        mountpoint: None,
    };
    eventually(LIMIT, "nginx listens", || {
        TcpStream::connect(&address).is_ok()
    });
    (helper, format!("https://{address}"))
}

fn rclone(swarm: &Swarm, url: &str, mountpoint: &Path) -> Helper {
    let child = Command::new("rclone")
        .args(["mount", ":http:", &mountpoint.to_string_lossy()])
        .args([
            "--http-url",
            url,
            "--no-check-certificate",
            "--read-only",
            "--config",
        ])
        .arg(swarm.path("rclone.conf"))
        .stdout(Stdio::null())
        .spawn()
        .expect("start rclone");
    let helper = Helper {
        child,
        mountpoint: Some(mountpoint.to_owned()),
    };
    eventually(LIMIT, "rclone has mounted", || is_mounted(mountpoint));
    helper
}
