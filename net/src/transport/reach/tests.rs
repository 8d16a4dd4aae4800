use std::net::{Ipv4Addr, UdpSocket};
use std::thread;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::model::CallSource;
use crate::testing::eventually;
use crate::transport::conformance::{FarEnd, Pair, link_conforms};

fn endpoint(number: u8, accepts: bool) -> Arc<Reach> {
    endpoint_at(number, (Ipv4Addr::UNSPECIFIED, 0).into(), accepts)
}

fn endpoint_at(number: u8, at: SocketAddr, accepts: bool) -> Arc<Reach> {
    let config = ReachConfig { relays: Vec::new() };
    let place = EndpointPlace {
        at,
        own: vec![Ipv4Addr::LOCALHOST.into()],
        accepts,
    };
    Reach::start(&config, &[number; 32], &place).unwrap()
}

/// Where `reach` can be called from this host.
fn here(reach: &Reach) -> Address {
    let bound = reach.inner.endpoint.bound_sockets();
    let port = bound.iter().find(|at| at.is_ipv4()).unwrap().port();
    let direct = vec![(Ipv4Addr::LOCALHOST, port).into()];
    ReachAddress {
        direct,
        ..reach.address()
    }
    .into()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// Runs `work` on the threads of `reach`.
fn on<T>(reach: &Reach, work: impl Future<Output = T>) -> T {
    reach.runtime.handle().unwrap().block_on(work)
}

/// Takes the next call to `reach` within the time of a test.
fn next(reach: &Reach, calls: &mut mpsc::Receiver<IncomingCall>) -> IncomingCall {
    let handle = reach.runtime.handle().unwrap();
    let call = handle.block_on(async { timeout_at(soon().into(), calls.recv()).await });
    call.unwrap().unwrap()
}

#[test]
fn stream_carries_bytes_both_ways() {
    let (a, b) = (endpoint(1, true), endpoint(2, true));
    let mut calls = b.take_calls().unwrap();
    let link = a.dial(&here(&b), soon()).unwrap();
    link.write_all(b"hello", soon()).unwrap();
    let mut call = next(&b, &mut calls);
    let handle = b.runtime.handle().unwrap();
    let mut greeting = [0; 5];
    handle
        .block_on(call.stream.read_exact(&mut greeting))
        .unwrap();
    assert_eq!(&greeting, b"hello");
    assert!(link.is_quiet());
    handle.block_on(call.stream.write_all(b"welcome")).unwrap();
    let mut answer = [0; 16];
    let read = link.read(&mut answer, soon()).unwrap();
    assert_eq!(&answer[..read], b"welcome");
}

#[test]
fn ten_lanes_share_one_connection_both_ways() {
    let (a, b) = (endpoint(3, true), endpoint(4, true));
    let (mut calls_of_a, mut to_b) = (a.take_calls().unwrap(), b.take_calls().unwrap());
    let (at_a, at_b) = (here(&a), here(&b));
    let first = a.dial(&at_b, soon()).unwrap();
    first.write_all(b"x", soon()).unwrap();
    let call = next(&b, &mut to_b);
    call.admission.note_member();
    let links: Vec<_> = (0..9).map(|_| a.dial(&at_b, soon()).unwrap()).collect();
    for link in &links {
        link.write_all(b"x", soon()).unwrap();
    }
    let calls: Vec<_> = links.iter().map(|_| next(&b, &mut to_b)).collect();
    let member = CallSource::Member(key_of(a.inner.endpoint.id()));
    assert!(calls.iter().all(|call| call.source == member));
    // The other side makes no connection of its own.
    let to_a = at_a.as_reach().unwrap();
    let (_, is_new) = on(&b, b.connection(to_a)).unwrap();
    assert!(!is_new);
    let back = b.dial(&at_a, soon()).unwrap();
    back.write_all(b"x", soon()).unwrap();
    next(&a, &mut calls_of_a);
}

#[test]
fn connection_without_streams_is_closed() {
    let (a, b) = (endpoint(13, true), endpoint(14, true));
    let mut calls = b.take_calls().unwrap();
    let link = a.dial(&here(&b), soon()).unwrap();
    link.write_all(b"x", soon()).unwrap();
    let call = next(&b, &mut calls);
    let [here, there] = [(&a, &b), (&b, &a)].map(|(from, to)| {
        let key = key_of(to.inner.endpoint.id());
        from.inner.open.get(key).unwrap()
    });
    drop((link, call));
    let by = Instant::now() + Duration::from_secs(60);
    let closed = async { timeout_at(by.into(), here.connection.closed()).await };
    on(&a, closed).unwrap();
    assert!(
        Instant::now() < by,
        "closed by an error, not for want of use"
    );
    on(&b, there.connection.closed());
}

#[test]
fn endpoint_that_was_started_again_is_found() {
    let (a, b) = (endpoint(15, true), endpoint(16, true));
    let mut calls = b.take_calls().unwrap();
    let at = here(&b);
    let link = a.dial(&at, soon()).unwrap();
    link.write_all(b"x", soon()).unwrap();
    drop(next(&b, &mut calls));
    let port = at.as_reach().unwrap().direct[0].port();
    // Its threads end without a word to anybody.
    drop((b, calls));
    let place = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    eventually("its port is free", || UdpSocket::bind(place).is_ok());
    let again = endpoint_at(16, place, true);
    let mut calls = again.take_calls().unwrap();
    let arrives = |attempt: u32| {
        let link = a.dial(&at, soon()).unwrap();
        link.write_all(b"x", soon()).unwrap();
        let patience = Instant::now() + Duration::from_millis(500);
        let error = link.read(&mut [0; 1], patience).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "attempt {attempt}");
    };
    // The first stream goes to the connection that nobody knows any more.
    (0..2).for_each(arrives);
    next(&again, &mut calls);
}

#[test]
fn stranger_has_four_streams() {
    let (a, b) = (endpoint(5, false), endpoint(6, true));
    let mut calls = b.take_calls().unwrap();
    let links: Vec<_> = (0..6)
        .map(|_| {
            let link = a.dial(&here(&b), soon()).unwrap();
            link.write_all(b"x", soon()).unwrap();
            link
        })
        .collect();
    let taken: Vec<_> = (0..4).map(|_| next(&b, &mut calls)).collect();
    assert!(
        taken
            .iter()
            .all(|call| call.source == CallSource::Reach(Some(Ipv4Addr::LOCALHOST.into())))
    );
    // The others are ended.
    let ended = |link: &Arc<dyn Link>| !matches!(link.read(&mut [0; 1], Instant::now() + Duration::from_secs(2)), Err(why) if why.kind() == io::ErrorKind::TimedOut);
    let count = links.iter().filter(|link| ended(link)).count();
    assert_eq!(count, 2);
}

#[test]
fn nobody_there_is_noticed_by_the_deadline() {
    let (a, b) = (endpoint(7, false), endpoint(8, true));
    let at = here(&b);
    b.stop();
    let begun = Instant::now();
    let error = a.dial(&at, begun + Duration::from_secs(2)).unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(4));
    assert!(error.is_absence(), "{error}");
}

#[test]
fn own_stop_ends_a_read_at_once() {
    let (a, b) = (endpoint(9, false), endpoint(10, true));
    let _calls = b.take_calls().unwrap();
    let link = a.dial(&here(&b), soon()).unwrap();
    link.write_all(b"x", soon()).unwrap();
    let reading = thread::spawn(move || link.read(&mut [0; 1], soon()));
    let begun = Instant::now();
    a.stop();
    let _ = reading.join().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3));
}

/// The other end of a stream, with what has to live as long.
struct FarStream {
    call: IncomingCall,
    _ends: [Arc<Reach>; 2],
    handle: Handle,
}

impl FarEnd for FarStream {
    fn send(&mut self, bytes: &[u8]) {
        let stream = &mut self.call.stream;
        self.handle.block_on(stream.write_all(bytes)).unwrap();
    }

    fn receive(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let stream = &mut self.call.stream;
        self.handle.block_on(stream.read_exact(&mut bytes)).unwrap();
        bytes
    }

    fn finish(&mut self) {
        let stream = &mut self.call.stream;
        self.handle.block_on(stream.shutdown()).unwrap();
    }
}

fn pair() -> Pair {
    let (a, b) = (endpoint(11, false), endpoint(12, true));
    let mut calls = b.take_calls().unwrap();
    let link = a.dial(&here(&b), soon()).unwrap();
    // The other side does not see a stream before its first byte.
    link.write_all(b"!", soon()).unwrap();
    let call = next(&b, &mut calls);
    let handle = b.runtime.handle().unwrap().clone();
    let mut far = FarStream {
        call,
        _ends: [a, b],
        handle,
    };
    assert_eq!(far.receive(1), b"!");
    (link, Box::new(far))
}

link_conforms!(pair);
