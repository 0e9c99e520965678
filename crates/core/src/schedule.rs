//! Schedules of cron jobs, in the syntax of `robfig/cron` v3, which the CronJob controller uses: when a start that did not
//! happen counts as missed.
//!
//! The time zone of a schedule is that of the controller, or a named one; Pilothouse has no time zone database. The time of
//! the last start shows which offsets from UTC are possible. Of those, the latest next start counts.

use jiff::{Timestamp, civil::Date, tz::TimeZone};

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// Time after which a start counts as missed, in seconds.
const GRACE: i64 = 5 * MINUTE;
/// Additional time for a start at certain hours: at the end of daylight saving time, it is an hour later.
const CLOCK_CHANGE: i64 = HOUR;
/// Number of days in which the next start is sought, as by the controller.
const MAX_DAYS: usize = 5 * 366;
/// The offsets of time zones from UTC, in seconds. All are multiples of 15 minutes.
const MIN_OFFSET: i64 = -12 * HOUR;
const MAX_OFFSET: i64 = 14 * HOUR;
const OFFSET_STEP: usize = 15 * 60;
/// The hours of a day, as a set.
const ALL_HOURS: u64 = (1 << 24) - 1;

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// A parsed schedule. Each field is a set of numbers: bit `n` is set if it contains `n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether a day must be in `days` and in `weekdays`, because one of the two is `*`. Otherwise one is enough.
    takes_both: bool,
}

/// The time from which the start after `last` counts as missed; `last` is the time of the last start, or the creation of a
/// cron job that never started. `None` for a schedule that cannot be parsed, or has no start within five years.
pub(crate) fn missed_from(schedule: &str, time_zone: Option<&str>, last: Timestamp) -> Option<Timestamp> {
    let schedule = Schedule::parse(schedule)?;
    let last = last.as_second();
    let is_utc = time_zone.is_some_and(|zone| ["UTC", "Etc/UTC"].contains(&zone));
    let offsets: Vec<i64> =
        if is_utc { vec![0] } else { (MIN_OFFSET..=MAX_OFFSET).step_by(OFFSET_STEP).collect() };
    let is_start = |offset: &i64| schedule.next(last - 1, *offset) == Some(last);
    let possible: Vec<i64> = offsets.iter().copied().filter(is_start).collect();
    // the creation of a cron job is no start, nor is a start by an earlier schedule
    let possible = if possible.is_empty() { offsets } else { possible };
    let next = possible.into_iter().filter_map(|offset| schedule.next(last, offset)).max()?;
    let clock_change = if schedule.hours == ALL_HOURS { 0 } else { CLOCK_CHANGE };
    Timestamp::from_second(next + GRACE + clock_change).ok()
}

impl Schedule {
    /// Parses a schedule of five fields, or one of the abbreviations except `@every`.
    fn parse(text: &str) -> Option<Self> {
        let text = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            text => text,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else { return None };
        let (minutes, _) = field(minutes, 0, 59, &[])?;
        let (hours, _) = field(hours, 0, 23, &[])?;
        let (days, is_any_day) = field(days, 1, 31, &[])?;
        let (months, _) = field(months, 1, 12, &MONTHS)?;
        let (weekdays, is_any_weekday) = field(weekdays, 0, 6, &WEEKDAYS)?;
        Some(Self { minutes, hours, days, months, weekdays, takes_both: is_any_day || is_any_weekday })
    }

    /// The first start after a time, where the local time is ahead of UTC by `offset`. All are in seconds.
    fn next(&self, after: i64, offset: i64) -> Option<i64> {
        let earliest = ((after + offset).div_euclid(MINUTE) + 1) * MINUTE;
        let mut day = earliest.div_euclid(DAY);
        let mut date = Timestamp::from_second(day * DAY).ok()?.to_zoned(TimeZone::UTC).date();
        let mut from = earliest.rem_euclid(DAY) / MINUTE;
        for _ in 0..MAX_DAYS {
            if self.has_day(date)
                && let Some(minute) = self.first_minute(from)
            {
                return Some(day * DAY + minute * MINUTE - offset);
            }
            (day, date, from) = (day + 1, date.tomorrow().ok()?, 0);
        }
        None
    }

    fn has_day(&self, date: Date) -> bool {
        let is_day = contains(self.days, date.day().into());
        let is_weekday = contains(self.weekdays, date.weekday().to_sunday_zero_offset().into());
        let fits = if self.takes_both { is_day && is_weekday } else { is_day || is_weekday };
        fits && contains(self.months, date.month().into())
    }

    /// The first start of a day at or after this minute of the day.
    fn first_minute(&self, from: i64) -> Option<i64> {
        let is_start =
            |minute: &i64| contains(self.hours, *minute / 60) && contains(self.minutes, *minute % 60);
        (from..24 * 60).find(is_start)
    }
}

fn contains(set: u64, number: i64) -> bool {
    (set >> number) & 1 == 1
}

/// The numbers of a field from `min` to `max`, and whether it is `*`. `names` are those of the numbers from `min` on.
fn field(text: &str, min: u32, max: u32, names: &[&str]) -> Option<(u64, bool)> {
    let number = |text: &str| -> Option<u32> {
        let named = names.iter().position(|name| name.eq_ignore_ascii_case(text));
        named.map_or_else(|| text.parse().ok(), |index| Some(min + u32::try_from(index).ok()?))
    };
    let (mut set, mut is_any) = (0, false);
    for part in text.split(',') {
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        let is_whole = range == "*" || range == "?";
        let (from, to) = match range.split_once('-') {
            _ if is_whole => (min, max),
            Some((from, to)) => (number(from)?, number(to)?),
            // with a step, a number begins a range
            None => number(range).map(|from| (from, if step.is_some() { max } else { from }))?,
        };
        let step = step.map_or(Ok(1), str::parse::<usize>).ok().filter(|step| *step > 0)?;
        if from < min || to > max || from > to {
            return None;
        }
        is_any |= is_whole && step == 1;
        for number in (from..=to).step_by(step) {
            set |= 1_u64 << number;
        }
    }
    Some((set, is_any))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missed(schedule: &str, time_zone: Option<&str>, last: &str) -> Option<String> {
        missed_from(schedule, time_zone, last.parse().unwrap()).map(|at| at.to_string())
    }

    #[test]
    fn next_start_follows_from_the_schedule() {
        let cases = [
            ("*/15 * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:20:00Z"),
            ("7 * * * *", "2026-01-01T00:07:00Z", "2026-01-01T01:12:00Z"),
            ("@hourly", "2026-01-01T00:00:00Z", "2026-01-01T01:05:00Z"),
            ("50/5 * * * *", "2026-01-01T00:50:00Z", "2026-01-01T01:00:00Z"),
            // at certain hours: an hour more
            ("0 3 * * *", "2026-01-01T03:00:00Z", "2026-01-02T04:05:00Z"),
            ("0 3,15 * * ?", "2026-01-01T03:00:00Z", "2026-01-01T16:05:00Z"),
            ("30 1-3 * * *", "2026-01-01T03:30:00Z", "2026-01-02T02:35:00Z"),
            ("@daily", "2026-02-28T00:00:00Z", "2026-03-01T01:05:00Z"),
            ("0 0 29 2 *", "2024-02-29T00:00:00Z", "2028-02-29T01:05:00Z"),
            ("0 0 * JAN mon", "2026-01-05T00:00:00Z", "2026-01-12T01:05:00Z"),
            // with a day and a weekday, one is enough: the 13th, and Fridays
            ("0 0 13 * 5", "2026-01-09T00:00:00Z", "2026-01-13T01:05:00Z"),
            ("@weekly", "2026-01-04T00:00:00Z", "2026-01-11T01:05:00Z"),
            ("@monthly", "2026-01-01T00:00:00Z", "2026-02-01T01:05:00Z"),
            ("@yearly", "2026-01-01T00:00:00Z", "2027-01-01T01:05:00Z"),
        ];
        for (schedule, last, expected) in cases {
            assert_eq!(missed(schedule, Some("Etc/UTC"), last).as_deref(), Some(expected), "{schedule}");
        }
    }

    #[test]
    fn offset_from_utc_follows_from_the_last_start() {
        for zone in [None, Some("Asia/Shanghai")] {
            let expected = Some("2026-01-02T20:05:00Z");
            assert_eq!(missed("0 3 * * *", zone, "2026-01-01T19:00:00Z").as_deref(), expected);
            // 3 o'clock in India
            let expected = Some("2026-01-02T22:35:00Z");
            assert_eq!(missed("0 3 * * *", zone, "2026-01-01T21:30:00Z").as_deref(), expected);
            // a start of which the offset does not matter
            let expected = Some("2026-01-01T19:15:00Z");
            assert_eq!(missed("*/10 * * * *", zone, "2026-01-01T19:00:00Z").as_deref(), expected);
        }
        // without a start, the latest one of all time zones counts: 12:00 in the zone 12 hours behind UTC
        let never = missed("0 12 * * *", None, "2026-01-01T00:01:00Z");
        assert_eq!(never.as_deref(), Some("2026-01-02T01:05:00Z"));
        let never = missed("0 12 * * *", Some("UTC"), "2026-01-01T00:01:00Z");
        assert_eq!(never.as_deref(), Some("2026-01-01T13:05:00Z"));
    }

    #[test]
    fn schedule_without_a_start_is_never_missed() {
        let refused = [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 7",
            "5-1 * * * *",
            "*/0 * * * *",
            "a * * * *",
            "1,,2 * * * *",
            "-1 * * * *",
            "TZ=UTC 0 3 * * *",
            "@every 1h",
            "0 0 30 2 *",
            "* * * * 99999999999",
        ];
        for schedule in refused {
            assert_eq!(missed(schedule, None, "2026-01-01T00:00:00Z"), None, "{schedule}");
        }
    }
}
