//! Parser of strace output (`-f -xx`): system calls, with the events of their start and end.

use std::collections::HashMap;

/// A system call.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) name: String,
    /// The arguments; each string is replaced by `""`.
    pub(super) arguments: String,
    /// The strings among them, in order.
    pub(super) strings: Vec<Vec<u8>>,
}

/// An event in a thread of the process.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A call begins.
    Begins { thread: u32, call: Call },
    /// The call that began last in this thread ends with this result.
    Ends { thread: u32, result: i64 },
}

/// Reads a trace.
pub(super) fn read(trace: &str) -> Vec<Event> {
    let mut events = Vec::new();
    // calls that the trace shows unfinished because another thread's call interrupts them
    let mut unfinished: HashMap<u32, String> = HashMap::new();
    for line in trace.lines() {
        let (thread, rest) = line.split_once(' ').unwrap_or_else(|| panic!("no thread id: {line}"));
        let thread = thread.parse().unwrap_or_else(|_| panic!("no thread id: {line}"));
        let rest = rest.trim_start();
        if rest.starts_with("+++") || rest.starts_with("---") {
            continue;
        }
        if let Some(start) = rest.strip_suffix(" <unfinished ...>") {
            events.push(Event::Begins { thread, call: call(start) });
            unfinished.insert(thread, start.to_owned());
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let (_, rest) = resumed.split_once(" resumed>").unwrap_or_else(|| panic!("{line}"));
            unfinished.remove(&thread).unwrap_or_else(|| panic!("no call began: {line}"));
            events.extend(result(rest).map(|result| Event::Ends { thread, result }));
        } else {
            events.push(Event::Begins { thread, call: call(rest) });
            events.extend(result(rest).map(|result| Event::Ends { thread, result }));
        }
    }
    events
}

/// The value after the last `) = `; `None` for a call that never returned.
fn result(line: &str) -> Option<i64> {
    let (_, result) = line.rsplit_once(" = ")?;
    result.split(' ').next()?.parse().ok()
}

fn call(line: &str) -> Call {
    let (name, mut rest) = line.split_once('(').unwrap_or_else(|| panic!("no call: {line}"));
    let (mut arguments, mut strings) = (String::new(), Vec::new());
    while let Some((before, quoted)) = rest.split_once('"') {
        let (text, after) =
            quoted.split_once('"').unwrap_or_else(|| panic!("an unterminated string of {name}"));
        assert!(!after.starts_with("..."), "strace truncated a string of {name}");
        arguments.push_str(before);
        arguments.push_str("\"\"");
        strings.push(bytes(text));
        rest = after;
    }
    arguments.push_str(rest);
    Call { name: name.to_owned(), arguments, strings }
}

/// Decodes `\x61\x62`.
fn bytes(text: &str) -> Vec<u8> {
    let digit =
        |byte: u8| char::from(byte).to_digit(16).unwrap_or_else(|| panic!("not hexadecimal: {text}")) as u8;
    text.as_bytes()
        .chunks(4)
        .map(|escape| match escape {
            [b'\\', b'x', high, low] => digit(*high) << 4 | digit(*low),
            _ => panic!("not hexadecimal: {text}"),
        })
        .collect()
}

impl Call {
    /// The number at this position of the arguments.
    pub(super) fn number(&self, position: usize) -> i64 {
        let argument = self.arguments.split(',').nth(position).unwrap_or_default().trim();
        let argument = argument.split(')').next().unwrap_or_default();
        argument.parse().unwrap_or_else(|_| panic!("no number at {position}: {self:?}"))
    }

    /// Reports whether a flag is set.
    pub(super) fn has(&self, flag: &str) -> bool {
        self.arguments.split(['|', ',', ' ', ')']).any(|word| word == flag)
    }
}
