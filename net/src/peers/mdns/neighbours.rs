//! What multicast says of nodes on the local links: a table of bounded size.
//!
//! Anyone on a link can announce any number of nodes. The table keeps few, and when it is full the
//! sender that fills most of it makes room, so that a flood displaces itself and honest neighbours
//! stay. What left the table loses nothing: whoever was found was reported, and is known elsewhere.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::intake::RateAllowance;
use super::message::{DnsMessage, DnsQuestion, DnsRecord, RecordData, kind};
use super::name::DnsName;
use crate::peers::crowd;
use crate::types::{Address, PeerId};

/// The most instances that are kept, whoever announced them. Names of 255 bytes and all addresses
/// make one take about 2 KiB.
pub(super) const MAX_INSTANCES: usize = 128;

/// The most addresses of one instance.
const MAX_ADDRESSES: usize = crate::wire::MemberRecord::MAX_ADDRESSES;

/// The longest that an announcement is believed, whatever it says: the usual life of such records
/// (RFC 6762, section 10).
const MAX_TTL: u32 = 4500;

/// What has not changed is reported again no sooner than this: it may have come back.
const REPEAT: Duration = Duration::from_secs(120);

/// How many reports may be made: each is looked at by the table of members.
const REPORTS_PER_SECOND: u32 = 50;
const REPORTS_BURST: u32 = 100;

/// How often what is missing of an instance is asked for, and after what time.
const MAX_ASKED: u8 = 3;
const ASK_AFTER: Duration = Duration::from_millis(500);

/// What the `v` key of the TXT record says: the generation of the protocol.
pub(super) const VERSION: &str = "2";

/// One link: an interface, by its number.
pub(super) type LinkIndex = u32;

/// Who is where: all that there is to say of an instance.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Located {
    id: PeerId,
    /// In order.
    addresses: Vec<IpAddr>,
    port: u16,
}

#[derive(Debug)]
struct ServiceInstance {
    /// Who announced it first.
    sender: IpAddr,
    /// When it was last announced.
    heard: Instant,
    expires: Instant,
    /// Where it is, once that was said.
    target: Option<(DnsName, u16)>,
    /// Who it is, once that was said; `None` inside when it is no node of this protocol.
    id: Option<Option<PeerId>>,
    addresses: Vec<(IpAddr, Instant)>,
    /// What was reported, and when.
    reported: Option<(Located, Instant)>,
    is_changed: bool,
    asked: u8,
    ask_at: Instant,
}

impl ServiceInstance {
    /// All of it, once it is known.
    fn located(&self) -> Option<Located> {
        let (port, id) = (self.target.as_ref()?.1, self.id??);
        let mut addresses: Vec<IpAddr> = self.addresses.iter().map(|(ip, _)| *ip).collect();
        addresses.sort();
        (!addresses.is_empty() && port != 0).then_some(Located {
            id,
            addresses,
            port,
        })
    }

    /// True when `located` is not what was reported lately.
    fn is_news(&self, located: &Located, now: Instant) -> bool {
        match &self.reported {
            Some((reported, at)) => reported != located || *at + REPEAT <= now,
            None => true,
        }
    }

    /// True while something is missing and worth a question.
    fn is_wanting(&self) -> bool {
        let is_other = self.id == Some(None);
        let lacks = self.target.is_none() || self.id.is_none() || self.addresses.is_empty();
        lacks && !is_other && self.asked < MAX_ASKED
    }

    fn add(&mut self, record: &DnsRecord, ip: IpAddr, now: Instant) {
        self.is_changed = true;
        // One message may hold several addresses, each of which replaces what was there before
        // (RFC 6762, section 10.2).
        let is_old = |at: Instant| at + Duration::from_secs(1) < now;
        let replaced = |(held, at): &(IpAddr, Instant)| {
            record.is_unique && is_old(*at) && held.is_ipv4() == ip.is_ipv4()
        };
        self.addresses
            .retain(|held| held.0 != ip && !replaced(held));
        if record.ttl > 0 && self.addresses.len() < MAX_ADDRESSES {
            self.addresses.push((ip, now));
        }
    }
}

/// Who was announced, and where: the addresses in one spelling, in order.
pub(super) type Sighting = (PeerId, Vec<Address>);

/// The table.
#[derive(Debug)]
pub(super) struct Neighbours {
    me: PeerId,
    service: DnsName,
    instances: HashMap<(LinkIndex, DnsName), ServiceInstance>,
    reports: RateAllowance,
}

impl Neighbours {
    /// An empty table of the node `me`, for the instances of `service`.
    pub(super) fn new(me: PeerId, service: DnsName, now: Instant) -> Self {
        Self {
            me,
            service,
            instances: HashMap::new(),
            reports: RateAllowance::new(REPORTS_PER_SECOND, REPORTS_BURST, now),
        }
    }

    /// Takes in the response `message` of `sender`, heard on `link`.
    pub(super) fn hear(
        &mut self,
        link: LinkIndex,
        sender: IpAddr,
        message: &DnsMessage,
        now: Instant,
    ) {
        // The order within a message says nothing: first who, then where, then at which address.
        for record in message.records() {
            if let RecordData::Pointer(instance) = &record.data
                && record.name == self.service
                && instance.is_child_of(&self.service)
            {
                self.announced(link, instance, record.ttl, sender, now);
            }
        }
        let mut hosts: HashSet<&DnsName> = HashSet::new();
        for record in message.records().filter(|record| record.ttl > 0) {
            match &record.data {
                RecordData::Service { host, port } => {
                    self.change(link, &record.name, |one| {
                        let target = Some((host.clone(), *port));
                        if one.target.as_ref().is_some_and(|(held, _)| held != host) {
                            one.addresses.clear();
                        }
                        one.target = target;
                    });
                }
                RecordData::Text(text) => self.change(link, &record.name, |one| {
                    one.id = Some(read_text(text));
                }),
                RecordData::Address(_) => {
                    hosts.insert(&record.name);
                }
                RecordData::Pointer(_) => {}
            }
        }
        if hosts.is_empty() {
            return;
        }
        for ((on, _), instance) in &mut self.instances {
            let Some((host, _)) = &instance.target else {
                continue;
            };
            if *on != link || !hosts.contains(host) {
                continue;
            }
            let host = host.clone();
            for record in message.records().filter(|record| record.name == host) {
                if let RecordData::Address(ip) = record.data {
                    instance.add(record, ip, now);
                }
            }
        }
    }

    fn change(
        &mut self,
        link: LinkIndex,
        name: &DnsName,
        change: impl FnOnce(&mut ServiceInstance),
    ) {
        if !name.is_child_of(&self.service) {
            return;
        }
        if let Some(instance) = self.instances.get_mut(&(link, name.clone())) {
            change(instance);
            instance.is_changed = true;
        }
    }

    fn announced(&mut self, link: u32, name: &DnsName, ttl: u32, sender: IpAddr, now: Instant) {
        let key = (link, name.clone());
        if ttl == 0 {
            self.instances.remove(&key);
            return;
        }
        if !self.instances.contains_key(&key) && self.instances.len() >= MAX_INSTANCES {
            self.make_room(now);
        }
        let instance = self
            .instances
            .entry(key)
            .or_insert_with(|| ServiceInstance {
                sender,
                heard: now,
                expires: now,
                target: None,
                id: None,
                addresses: Vec::new(),
                reported: None,
                is_changed: true,
                asked: 0,
                ask_at: now + ASK_AFTER,
            });
        instance.heard = now;
        instance.is_changed = true;
        instance.expires = now + Duration::from_secs(ttl.min(MAX_TTL).into());
    }

    /// Forgets what has expired, or else the oldest that the most numerous sender announced.
    fn make_room(&mut self, now: Instant) {
        self.expire(now);
        if self.instances.len() < MAX_INSTANCES {
            return;
        }
        let entries = self.instances.iter();
        let entries = entries.map(|(key, one)| (key, one.sender, one.heard));
        if let Some(key) = crowd::oldest_of_largest(entries).cloned() {
            self.instances.remove(&key);
        }
    }

    fn expire(&mut self, now: Instant) {
        self.instances.retain(|_, instance| now < instance.expires);
    }

    /// Forgets what was heard on links that are gone.
    pub(super) fn keep_links(&mut self, is_there: impl Fn(LinkIndex) -> bool) {
        self.instances.retain(|(link, _), _| is_there(*link));
    }

    /// Whom to report now. `zone` names a link.
    pub(super) fn sightings(
        &mut self,
        zone: impl Fn(LinkIndex) -> Option<String>,
        now: Instant,
    ) -> Vec<Sighting> {
        let mut sightings = Vec::new();
        if !self.reports.has(now) {
            return sightings;
        }
        let mut announced: HashMap<IpAddr, usize> = HashMap::new();
        for instance in self.instances.values() {
            *announced.entry(instance.sender).or_default() += 1;
        }
        let changed = self.instances.iter_mut().filter(|(_, one)| one.is_changed);
        let mut changed: Vec<_> = changed.collect();
        // Whoever announces the most waits the longest.
        changed.sort_by_key(|(_, one)| announced.get(&one.sender).copied());
        for ((link, _), instance) in changed {
            let Some(located) = instance.located() else {
                continue;
            };
            if located.id == self.me || !instance.is_news(&located, now) {
                instance.is_changed = false;
                continue;
            }
            if !self.reports.take(now) {
                break;
            }
            instance.is_changed = false;
            let zone = zone(*link);
            let hosts = located.addresses.iter();
            let hosts = hosts.filter_map(|ip| spell(*ip, zone.as_deref()));
            let addresses = hosts.map(|host| Address::new(host, located.port));
            sightings.push((located.id, addresses.collect()));
            instance.reported = Some((located, now));
        }
        sightings
    }

    /// The instances on `link` that need not answer a query: those that were heard of in the first
    /// half of their life, as records with the time that is left.
    pub(super) fn known(&self, link: LinkIndex, most: usize, now: Instant) -> Vec<DnsRecord> {
        let half = Duration::from_secs(u64::from(MAX_TTL) / 2);
        let instances = self.instances.iter().filter(|((on, _), _)| *on == link);
        let known = instances.filter_map(|((_, name), instance)| {
            let left = instance.expires.saturating_duration_since(now);
            // Who is incomplete had better answer.
            (left > half && instance.located().is_some()).then(|| DnsRecord {
                name: self.service.clone(),
                ttl: left.as_secs() as u32,
                is_unique: false,
                data: RecordData::Pointer(name.clone()),
            })
        });
        known.take(most).collect()
    }

    /// What to ask on `link` to learn what is still missing, `most` questions at most.
    pub(super) fn missing(
        &mut self,
        link: LinkIndex,
        most: usize,
        now: Instant,
    ) -> Vec<DnsQuestion> {
        let mut questions = Vec::new();
        for ((on, name), instance) in &mut self.instances {
            if questions.len() + 2 > most {
                break;
            }
            if *on != link || !instance.is_wanting() || now < instance.ask_at {
                continue;
            }
            let ask = |name: &DnsName| DnsQuestion {
                name: name.clone(),
                kind: kind::ANY,
            };
            instance.asked += 1;
            instance.ask_at = now + ASK_AFTER * 2 * u32::from(instance.asked);
            if instance.target.is_none() || instance.id.is_none() {
                questions.push(ask(name));
            }
            if let Some((host, _)) = &instance.target
                && instance.addresses.is_empty()
            {
                questions.push(ask(host));
            }
        }
        questions
    }

    /// When [`Neighbours::missing`] or [`Neighbours::sightings`] may have something.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let instances = self.instances.values();
        let asks = instances.clone().filter(|one| one.is_wanting());
        let asks = asks.map(|one| one.ask_at);
        // Only the bound on reports leaves any behind.
        let left = instances.filter(|one| one.is_changed && one.located().is_some());
        let left = left.map(|_| now + Duration::from_millis(100));
        asks.chain(left).min()
    }

    /// How many instances are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.instances.len()
    }
}

/// Who a TXT record says it is; `None` for what is not a node of this protocol.
fn read_text(text: &[u8]) -> Option<PeerId> {
    let (mut id, mut version) = (None, None);
    let mut rest = text;
    while let [length, behind @ ..] = rest {
        let (pair, behind) = behind.split_at_checked(usize::from(*length))?;
        rest = behind;
        let Some((key, value)) = std::str::from_utf8(pair).ok()?.split_once('=') else {
            continue;
        };
        // The first of several counts (RFC 6763, section 6.4).
        match &*key.to_ascii_lowercase() {
            "id" => id = id.or(Some(value)),
            "v" => version = version.or(Some(value)),
            _ => {}
        }
    }
    (version? == VERSION).then(|| id?.parse().ok())?
}

/// With its zone if it is link-local IPv6, so that it can be dialled from here.
fn spell(ip: IpAddr, zone: Option<&str>) -> Option<String> {
    match ip {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(format!("{v6}%{}", zone?)),
        ip => Some(ip.to_string()),
    }
}
