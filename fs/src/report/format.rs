//! Sizes, times and names, formatted for people.

use bytesize::ByteSize;
use time::OffsetDateTime;
use tinyp2p_net::model::escaped;
use tinyp2p_net::stats::status::{RouteKind, RouteStatus};

/// Formats a number of bytes in the largest unit that it fills.
pub(crate) fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

/// Formats a time in its two largest units.
pub(crate) fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// Formats like [`size`], and adds the exact digits where there are more of them.
pub(super) fn exact_size(bytes: u64) -> String {
    let short = size(bytes);
    if bytes < 1024 {
        short
    } else {
        format!("{short} ({bytes} bytes)")
    }
}

/// Formats nanoseconds since 1970 as date and time of day, in UTC. Times outside the years with
/// four digits are shown in seconds.
pub(super) fn moment(nanoseconds: i128) -> String {
    let Ok(moment) = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds) else {
        let seconds = nanoseconds.div_euclid(1_000_000_000);
        return format!("{seconds} s since 1970");
    };
    let (year, month, day) = moment.to_calendar_date();
    let (hour, minute, second) = moment.to_hms();
    let month = u8::from(month);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// Says how a member is reached, after its address.
pub(super) fn route(route: &RouteStatus) -> String {
    let mut text = match (route.kind, &route.relay) {
        (RouteKind::Tcp, _) => " tcp".to_owned(),
        (RouteKind::Direct, _) => " direct".to_owned(),
        (RouteKind::Relayed, host) => {
            let host = host.as_deref().unwrap_or_default();
            format!(" relayed by {}", shown(host))
        }
    };
    if let Some(microseconds) = route.round_trip_us {
        text += &match microseconds {
            0..1000 => format!(", {microseconds} us"),
            _ => format!(", {} ms", microseconds / 1000),
        };
    }
    for (bytes, how) in [(route.direct, "direct"), (route.relayed, "relayed")] {
        if bytes > 0 {
            text += &format!(", {} {how}", size(bytes));
        }
    }
    text
}

/// Escapes text that others influence, so that it cannot drive a terminal or start a new line.
pub(super) fn shown(text: &str) -> String {
    escaped(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (-1, "1969-12-31 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (4_107_542_399, "2100-02-28 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(moment(seconds * 1_000_000_000), expected);
        }
    }
}
