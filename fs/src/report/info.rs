//! The report on one file or directory: the value of the extended attribute `user.tinyp2p.info` and
//! what `tinyp2p info` prints from it. SEMANTICS.md lists the fields; fields are only ever added.

use serde::{Deserialize, Serialize};

use tinyp2p_net::model::escaped;

use tinyp2p_net::stats::status::RouteStatus;

use super::format::{exact_size, moment, route, shown};

/// Limit on the value, below the kernel's limit of 64 KiB for an extended attribute.
pub const MAX_VALUE_BYTES: usize = 60 << 10;

/// Everything known about one file or directory in a mount.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Info {
    /// `file` or `directory`.
    pub kind: String,
    /// Bytes; 0 for a directory.
    pub size: u64,
    /// Nanoseconds since 1970.
    pub mtime: i128,
    /// The content root, 64 hexadecimal digits, if it is known.
    pub root: Option<String>,
    /// The members that have it; reads prefer the first.
    pub sources: Vec<InfoHolder>,
    /// Bytes of it that this node holds.
    pub cached: u64,
    /// Names in the same directory that are other contents of the same path.
    pub conflicts: Vec<String>,
    /// Those conflicts that may turn out to be the same content, once both are hashed.
    pub comparing: Vec<String>,
}

/// A member that has the file.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct InfoHolder {
    /// The name under which it is shown.
    pub name: String,
    /// The member's peer id, 52 characters.
    pub peer_id: String,
    /// Where it was last reached; `None` for this node itself.
    pub address: Option<String>,
    /// How it is reached now; `None` while it is not, and for this node itself.
    pub route: Option<RouteStatus>,
}

impl Info {
    /// Returns one JSON object of at most [`MAX_VALUE_BYTES`]. If there are too many sources and
    /// conflicts, only the first ones are kept.
    pub fn value(mut self) -> String {
        loop {
            // Only strings and numbers: nothing can fail.
            let value = serde_json::to_string(&self).unwrap_or_default();
            if value.len() <= MAX_VALUE_BYTES {
                return value;
            }
            self.sources.truncate(self.sources.len() / 2);
            self.conflicts.truncate(self.conflicts.len() / 2);
            self.comparing.truncate(self.comparing.len() / 2);
        }
    }

    /// Returns a few lines for people; `path` is printed as it was given.
    pub fn text(&self, path: &[u8]) -> String {
        let mut lines = vec![escaped(path), format!("  kind      {}", shown(&self.kind))];
        if self.kind == "file" {
            lines.push(format!("  size      {}", exact_size(self.size)));
        }
        lines.push(format!("  modified  {}", moment(self.mtime)));
        if self.kind == "file" {
            let root = self.root.as_deref().unwrap_or("not known yet");
            lines.push(format!("  root      {}", shown(root)));
            lines.push(format!("  cached    {}", exact_size(self.cached)));
        }
        let names = self.sources.iter().map(|holder| shown(&holder.name));
        let width = names.map(|name| name.chars().count()).max().unwrap_or(0);
        for (index, holder) in self.sources.iter().enumerate() {
            let label = if index == 0 { "sources" } else { "" };
            let id: String = shown(&holder.peer_id).chars().take(8).collect();
            let address = holder.address.as_deref().map_or("-".to_owned(), shown);
            let name = shown(&holder.name);
            let route = holder.route.as_ref().map_or_else(String::new, route);
            lines.push(format!("  {label:9} {name:width$}  {id}  {address}{route}"));
        }
        for (title, names) in [
            ("conflicts", &self.conflicts),
            ("comparing", &self.comparing),
        ] {
            for (index, name) in names.iter().enumerate() {
                let label = if index == 0 { title } else { "" };
                lines.push(format!("  {label:9} {}", shown(name)));
            }
        }
        lines.push(String::new());
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> Info {
        let holder = |name: &str, address: Option<&str>| InfoHolder {
            name: name.into(),
            peer_id: "abcdefghijkl".into(),
            route: None,
            address: address.map(str::to_owned),
        };
        Info {
            kind: "file".into(),
            size: 3 << 20,
            mtime: 1_700_000_000_000_000_000,
            root: Some("ab".repeat(32)),
            sources: vec![holder("box", None), holder("jukebox", Some("10.0.0.1:7"))],
            cached: 5,
            conflicts: vec!["a (bob).ogg".into(), "a (eve\u{1b}).ogg".into()],
            comparing: vec!["a (bob).ogg".into()],
        }
    }

    #[test]
    fn info_text_is_aligned_and_harmless() {
        let root = "ab".repeat(32);
        let expected = format!(
            "\
m/a\\n.ogg
  kind      file
  size      3.0 MiB (3145728 bytes)
  modified  2023-11-14 22:13:20 UTC
  root      {root}
  cached    5 B
  sources   box      abcdefgh  -
            jukebox  abcdefgh  10.0.0.1:7
  conflicts a (bob).ogg
            a (eve\\u{{1b}}).ogg
  comparing a (bob).ogg
"
        );
        assert_eq!(info().text(b"m/a\n.ogg"), expected);
    }

    #[test]
    fn no_text_of_others_drives_a_terminal() {
        let hostile: String = tinyp2p_net::model::text::HOSTILE.into_iter().collect();
        let mut info = info();
        let lines = info.text(b"").lines().count();
        info.sources[0].name.clone_from(&hostile);
        info.sources[0].address = Some(hostile.clone());
        info.conflicts.push(hostile.clone());
        let text = info.text(hostile.as_bytes());
        assert_eq!(text.lines().count(), lines + 1);
        let acting = tinyp2p_net::model::text::HOSTILE.into_iter();
        assert!(acting.filter(|c| *c != '\n').all(|c| !text.contains(c)));
    }

    #[test]
    fn times_of_any_century_survive_the_value() {
        let info = Info {
            mtime: 13_569_465_600_123_456_789,
            ..info()
        };
        let read: Info = serde_json::from_str(&info.clone().value()).unwrap();
        assert_eq!(read.mtime, info.mtime);
        assert!(read.text(b"x").contains("2400-01-01 00:00:00 UTC"));
    }

    #[test]
    fn unknown_info_is_left_out() {
        let text = Info {
            root: None,
            ..info()
        }
        .text(b"x");
        assert!(text.contains("  root      not known yet\n"));
        let directory = Info {
            kind: "directory".into(),
            ..info()
        };
        let text = directory.text(b"x");
        for word in ["size", "root", "cached"] {
            assert!(!text.contains(word), "{text}");
        }
    }

    #[test]
    fn info_object_round_trips() {
        let value = info().value();
        assert_eq!(serde_json::from_str::<Info>(&value).unwrap(), info());
        assert!(!value.contains('\n'));
    }

    #[test]
    fn the_fields_are_those_in_semantics_md() {
        let text = include_str!("../../SEMANTICS.md");
        let section = text
            .split("\n## ")
            .find(|part| part.starts_with("Information about a file"))
            .unwrap();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
        let documented: Vec<&str> = rows.filter_map(|row| row.split('`').next()).collect();
        let value = serde_json::to_value(info()).unwrap();
        let keys = |value: &serde_json::Value, prefix: &str| -> Vec<String> {
            let object = value.as_object().unwrap();
            object.keys().map(|key| format!("{prefix}{key}")).collect()
        };
        let mut ours = keys(&value, "");
        ours.extend(keys(&value["sources"][0], "sources[]."));
        ours.sort();
        let mut sorted = documented.clone();
        sorted.sort_unstable();
        assert_eq!(ours, sorted);
    }

    #[test]
    fn a_value_fits_into_what_the_kernel_takes() {
        let mut info = info();
        info.sources = vec![info.sources[1].clone(); 10_000];
        info.conflicts = vec!["\u{1}".repeat(255); 10_000];
        let value = info.value();
        assert!(value.len() <= MAX_VALUE_BYTES);
        let kept: Info = serde_json::from_str(&value).unwrap();
        assert!(!kept.sources.is_empty() && !kept.conflicts.is_empty());
    }
}
