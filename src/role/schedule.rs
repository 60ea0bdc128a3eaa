//! When k3s takes snapshots of etcd.
//!
//! Owns the forms that its reader of schedules and of durations takes (k3s: pkg/etcd/snapshot.go
//! `setSnapshotFunction`; robfig/cron v3: parser.go `ParseStandard`). k3s drops
//! the error of that reader: with any other text it takes no snapshot, ever, and
//! says nothing.

/// Lowest and highest number of each field, and the names from the lowest on.
const FIELDS: [(u32, u32, &str); 5] = [
    (0, 59, ""),
    (0, 23, ""),
    (1, 31, ""),
    (1, 12, "jan feb mar apr may jun jul aug sep oct nov dec"),
    (0, 6, "sun mon tue wed thu fri sat"),
];
const NAMED: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// Whether k3s would follow `text`: five fields, a name such as `@daily`, or
/// `@every` with a duration; each may have a time zone in front.
#[must_use]
pub fn is_schedule(text: &str) -> bool {
    let zoned = text.strip_prefix("CRON_TZ=").or_else(|| text.strip_prefix("TZ="));
    let text = zoned.map_or(text, |rest| rest.split_once(' ').map_or("", |(_, rest)| rest.trim()));
    if let Some(duration) = text.strip_prefix("@every ") {
        return is_duration(duration);
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    NAMED.contains(&text)
        || fields.len() == 5 && fields.iter().zip(FIELDS).all(|(text, field)| fits(text, field))
}

fn fits(text: &str, (low, high, names): (u32, u32, &str)) -> bool {
    let number = |text: &str| {
        let named = names.split(' ').position(|name| !name.is_empty() && name.eq_ignore_ascii_case(text));
        let number = named.and_then(|at| u32::try_from(at).ok()).map(|at| at + low);
        let digits = || text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        number.or_else(digits).filter(|number| (low..=high).contains(number))
    };
    text.split(',').all(|part| {
        let (range, step) = part.split_once('/').unwrap_or((part, "1"));
        let is_range = match range.split_once('-') {
            Some((first, last)) => number(first).zip(number(last)).is_some_and(|(first, last)| first <= last),
            None => ["*", "?"].contains(&range) || number(range).is_some(),
        };
        is_range && step.parse::<u32>().is_ok_and(|step| step > 0)
    })
}

/// Whether `text` is a duration above zero as Go reads it: `1h30m`, `1.5s`.
#[must_use]
pub fn is_duration(text: &str) -> bool {
    let mut rest = text;
    let mut above_zero = false;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, unit) = rest.split_at(end);
        let Ok(number) = number.parse::<f64>() else { return false };
        let Some(unit) = ["ns", "us", "ms", "s", "m", "h"].into_iter().find(|known| {
            unit.strip_prefix(known).is_some_and(|after| !after.starts_with(|c: char| c.is_alphabetic()))
        }) else {
            return false;
        };
        above_zero |= number > 0.0;
        rest = &rest[end + unit.len()..];
    }
    above_zero
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_what_k3s_would_follow() {
        for text in [
            "0 */6 * * *",
            "*/30 1-5,22 ? JAN-mar SUN",
            "0 */12 * * *",
            "5/10 0 1 1 0",
            "@daily",
            "@every 1h30m",
            "CRON_TZ=Asia/Shanghai 0 3 * * *",
            "TZ=UTC @hourly",
        ] {
            assert!(is_schedule(text), "{text}");
        }
        for text in [
            "",
            "0 */6 * *",
            "0 0 */6 * * *",
            "every 6 hours",
            "60 * * * *",
            "0 24 * * *",
            "0 0 0 * *",
            "0 0 * * 7",
            "0 5-1 * * *",
            "*/0 * * * *",
            "0 */6 * * * #",
            "@every",
            "@every 6",
            "@fortnightly",
            "TZ=UTC",
            "+1 * * * *",
        ] {
            assert!(!is_schedule(text), "{text}");
        }
    }
}
