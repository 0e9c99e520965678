//! The report: a table for each row of the plan, printed, and put between that row's markers in docs/benchmarks.md.

use std::{fs, path::Path, process::Command};

use crate::{
    error::{Failed, Result},
    measure::{Measured, spread},
};

/// What a row of the plan has to say.
pub(crate) struct Section {
    /// `B1` …
    pub(crate) row: &'static str,
    /// Markdown.
    pub(crate) text: String,
}

impl Section {
    pub(crate) fn new(row: &'static str, title: &str) -> Self {
        Self { row, text: format!("### {row}: {title}\n\n") }
    }

    /// A paragraph.
    pub(crate) fn say(&mut self, text: impl AsRef<str>) {
        self.text.push_str(text.as_ref());
        self.text.push_str("\n\n");
    }

    /// A table, the first line of which is its head.
    pub(crate) fn table(&mut self, lines: &[Vec<String>]) {
        for (n, cells) in lines.iter().enumerate() {
            self.text.push_str(&format!("| {} |\n", cells.join(" | ")));
            if n == 0 {
                self.text.push_str(&format!("|{}\n", "---|".repeat(cells.len())));
            }
        }
        self.text.push('\n');
    }

    /// Whether a target was met, as it was measured.
    pub(crate) fn verdict(&mut self, what: &str, measured: f64, target: f64, unit: &str) {
        let word = if measured <= target { "met" } else { "**missed**" };
        self.say(format!("- {what}: {} {unit}, target ≤ {} {unit}: {word}", short(measured), short(target)));
    }

    /// The same where more is better.
    pub(crate) fn at_least(&mut self, what: &str, measured: f64, target: f64, unit: &str) {
        let word = if measured >= target { "met" } else { "**missed**" };
        self.say(format!("- {what}: {} {unit}, target ≥ {} {unit}: {word}", short(measured), short(target)));
    }
}

/// The head of the table that [`line()`] fills.
pub(crate) fn head() -> Vec<String> {
    ["", "CPU µs/op", "p50 ms", "p90 ms", "p99 ms", "op/s", "bytes"].map(str::to_owned).to_vec()
}

/// What was measured of a subject: medians, and in parentheses how far the middle half of the rounds lies apart.
pub(crate) fn line(measured: &Measured) -> Vec<String> {
    let with_spread = |values: &[f64]| {
        let (median, spread) = spread(values);
        format!("{} ({})", short(median), short(spread))
    };
    vec![
        measured.name.clone(),
        with_spread(&measured.cpu),
        with_spread(&measured.p50),
        short(spread(&measured.p90).0),
        with_spread(&measured.p99),
        short(spread(&measured.rate).0),
        measured.bytes.to_string(),
    ]
}

/// Three digits that count.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        magnitude if !magnitude.is_finite() => "–".into(),
        magnitude if magnitude >= 100.0 => format!("{value:.0}"),
        magnitude if magnitude >= 10.0 => format!("{value:.1}"),
        magnitude if magnitude >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// What everything ran on, in one line.
pub(crate) fn machine(kubernetes: &str) -> Result<String> {
    let processors = fs::read_to_string("/proc/cpuinfo")?;
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let count = processors.lines().filter(|line| line.starts_with("processor")).count();
    let memory = fs::read_to_string("/proc/meminfo")?;
    let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    let gigabytes = kib.and_then(|kib| kib.trim().parse::<f64>().ok()).unwrap_or_default() / (1 << 20) as f64;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let commit = said(Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=9"]));
    Ok(format!(
        "Measured on {count} × {}, {gigabytes:.0} GiB, Linux {}; Kubernetes {kubernetes}; commit {}, {}.",
        model.map_or("unknown processor", |(_, model)| model.trim()),
        kernel.trim(),
        commit.unwrap_or_else(|| "unknown".into()),
        said(Command::new("date").args(["-u", "+%F"])).unwrap_or_default(),
    ))
}

fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Puts a section in its place; what stood there goes.
pub(crate) fn put(file: &Path, section: &Section, machine: &str) -> Result<()> {
    let text = fs::read_to_string(file)?;
    let (start, end) = (format!("<!-- {} -->\n", section.row), format!("<!-- /{} -->", section.row));
    let place = text.find(&start).map(|at| at + start.len()).zip(text.find(&end));
    let (from, to) = place
        .filter(|(from, to)| from <= to)
        .ok_or_else(|| Failed::because(format!("{} has no place for {}", file.display(), section.row)))?;
    let body = format!("{}{machine}\n", section.text.replace("\n\n- ", "\n- "));
    Ok(fs::write(file, format!("{}{body}{}", &text[..from], &text[to..]))?)
}
