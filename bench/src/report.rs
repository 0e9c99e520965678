//! Report: a section per row of the plan, printed and written between the row's markers in docs/benchmarks.md.

use std::{fs, path::Path, process::Command};

use crate::{
    error::{BenchError, Result},
    measure::{Measured, spread},
};

/// Section of the report for one row of the plan.
pub(crate) struct Section {
    /// Id of the row: `B1` …
    pub(crate) row: &'static str,
    /// The section in Markdown.
    pub(crate) text: String,
}

impl Section {
    pub(crate) fn new(row: &'static str, title: &str) -> Self {
        Self { row, text: format!("### {row}: {title}\n\n") }
    }

    /// Adds a paragraph.
    pub(crate) fn paragraph(&mut self, text: impl AsRef<str>) {
        self.text.push_str(text.as_ref());
        self.text.push_str("\n\n");
    }

    /// Adds a table. The first line is the header.
    pub(crate) fn table(&mut self, lines: &[Vec<String>]) {
        for (n, cells) in lines.iter().enumerate() {
            self.text.push_str(&format!("| {} |\n", cells.join(" | ")));
            if n == 0 {
                self.text.push_str(&format!("|{}\n", "---|".repeat(cells.len())));
            }
        }
        self.text.push('\n');
    }

    /// Adds the result for a target: met if `measured` ≤ `target`.
    pub(crate) fn verdict(&mut self, what: &str, measured: f64, target: f64, unit: &str) {
        let result = if measured <= target { "met" } else { "**missed**" };
        self.paragraph(format!(
            "- {what}: {} {unit}, target ≤ {} {unit}: {result}",
            short(measured),
            short(target)
        ));
    }

    /// Adds the result for a target: met if `measured` ≥ `target`.
    pub(crate) fn at_least(&mut self, what: &str, measured: f64, target: f64, unit: &str) {
        let result = if measured >= target { "met" } else { "**missed**" };
        self.paragraph(format!(
            "- {what}: {} {unit}, target ≥ {} {unit}: {result}",
            short(measured),
            short(target)
        ));
    }
}

/// The header of tables with rows of [`line()`].
pub(crate) fn head() -> Vec<String> {
    ["", "CPU µs/op", "p50 ms", "p90 ms", "p99 ms", "op/s", "bytes"].map(str::to_owned).to_vec()
}

/// A table row for a subject: medians over the rounds, with interquartile ranges in parentheses.
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

/// Formats a number with three significant digits.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        magnitude if !magnitude.is_finite() => "–".into(),
        magnitude if magnitude >= 100.0 => format!("{value:.0}"),
        magnitude if magnitude >= 10.0 => format!("{value:.1}"),
        magnitude if magnitude >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Description of machine, versions and date, in one line.
pub(crate) fn machine(kubernetes: &str) -> Result<String> {
    let processors = fs::read_to_string("/proc/cpuinfo")?;
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let count = processors.lines().filter(|line| line.starts_with("processor")).count();
    let memory = fs::read_to_string("/proc/meminfo")?;
    let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    let gigabytes = kib.and_then(|kib| kib.trim().parse::<f64>().ok()).unwrap_or_default() / (1 << 20) as f64;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let commit = stdout_of(Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=9"]));
    Ok(format!(
        "Measured on {count} × {}, {gigabytes:.0} GiB, Linux {}; Kubernetes {kubernetes}; commit {}, {}.",
        model.map_or("unknown processor", |(_, model)| model.trim()),
        kernel.trim(),
        commit.unwrap_or_else(|| "unknown".into()),
        stdout_of(Command::new("date").args(["-u", "+%F"])).unwrap_or_default(),
    ))
}

fn stdout_of(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Replaces the section of the row in the report file.
pub(crate) fn write_section(file: &Path, section: &Section, machine: &str) -> Result<()> {
    let text = fs::read_to_string(file)?;
    let (start, end) = (format!("<!-- {} -->\n", section.row), format!("<!-- /{} -->", section.row));
    let range = text.find(&start).map(|at| at + start.len()).zip(text.find(&end));
    let (from, to) = range.filter(|(from, to)| from <= to).ok_or_else(|| {
        BenchError::because(format!("{} has no markers for {}", file.display(), section.row))
    })?;
    let body = format!("{}{machine}\n", section.text.replace("\n\n- ", "\n- "));
    Ok(fs::write(file, format!("{}{body}{}", &text[..from], &text[to..]))?)
}
