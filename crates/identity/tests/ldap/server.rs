//! LDAP server for tests, with a few entries and scripted answers.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// One BER element. Content up to 64 KiB.
pub(crate) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [[tag, 0x82].as_slice(), &length, content].concat()
}

fn text(value: &str) -> Vec<u8> {
    element(0x04, value.as_bytes())
}

/// A response with a result code.
pub(crate) fn result(tag: u8, code: u8) -> Vec<u8> {
    element(tag, &[element(0x0a, &[code]), text(""), text("")].concat())
}

pub(crate) fn message(id: &[u8], response: &[u8]) -> Vec<u8> {
    element(0x30, &[element(0x02, id), response.to_vec()].concat())
}

/// Splits elements: tag and content of each.
fn split(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut elements = Vec::new();
    while let [tag, length, rest @ ..] = bytes {
        let octets = if *length < 0x80 { 0 } else { usize::from(length & 0x7f) };
        let (long, rest) = rest.split_at(octets);
        let short = if octets == 0 { usize::from(*length) } else { 0 };
        let length = long.iter().fold(short, |length, octet| length << 8 | usize::from(*octet));
        let (content, rest) = rest.split_at(length);
        elements.push((*tag, content));
        bytes = rest;
    }
    elements
}

/// An entry: its name, its password, its attributes.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) dn: String,
    pub(crate) password: Option<String>,
    pub(crate) attributes: Vec<(String, String)>,
}

impl Entry {
    pub(crate) fn new(dn: &str, password: Option<&str>, attributes: &[(&str, &str)]) -> Self {
        let attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self { dn: dn.to_owned(), password: password.map(str::to_owned), attributes: attributes.collect() }
    }

    fn matches(&self, (tag, content): (u8, &[u8])) -> bool {
        let value = |name: &[u8], wanted: Option<&[u8]>| {
            self.attributes.iter().any(|(found, value)| {
                found.as_bytes().eq_ignore_ascii_case(name)
                    && wanted.is_none_or(|wanted| value.as_bytes().eq_ignore_ascii_case(wanted))
            })
        };
        match tag {
            0xa0 => split(content).into_iter().all(|filter| self.matches(filter)),
            0xa1 => split(content).into_iter().any(|filter| self.matches(filter)),
            0xa3 => {
                let [(_, name), (_, wanted)] = split(content)[..] else { return false };
                value(name, Some(wanted))
            }
            0x87 => content.eq_ignore_ascii_case(b"objectClass") || value(content, None),
            _ => false,
        }
    }

    fn response(&self) -> Vec<u8> {
        let attributes = self
            .attributes
            .iter()
            .map(|(name, value)| element(0x30, &[text(name), element(0x31, &text(value))].concat()));
        element(0x64, &[text(&self.dn), element(0x30, &attributes.collect::<Vec<_>>().concat())].concat())
    }
}

/// Reaction of the server to requests.
#[derive(Clone)]
pub(crate) enum Behaviour {
    /// Answers by its entries.
    Honest,
    /// Answers searches with these bytes, after the id of the message.
    Searches(fn(&[u8]) -> Vec<u8>),
    /// Answers binds with this code.
    Binds(u8),
    /// Accepts a bind with a name and an empty password as an anonymous bind, as Active Directory does.
    AnonymousBinds,
    /// Sends no answer.
    Hangs,
    /// Ends every connection.
    Closes,
}

pub(crate) struct Server {
    pub(crate) url: String,
    entries: Arc<Mutex<Vec<Entry>>>,
    behaviour: Arc<Mutex<Behaviour>>,
    binds: Arc<Mutex<Vec<(String, String)>>>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    pub(crate) async fn start(entries: Vec<Entry>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ldap://{}", listener.local_addr().unwrap());
        let server = Self {
            url,
            entries: Arc::new(Mutex::new(entries)),
            behaviour: Arc::new(Mutex::new(Behaviour::Honest)),
            binds: Arc::default(),
            connections: Arc::default(),
        };
        let (entries, behaviour) = (server.entries.clone(), server.behaviour.clone());
        let (binds, connections) = (server.binds.clone(), server.connections.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, entries.clone(), behaviour.clone(), binds.clone()));
            }
        });
        server
    }

    pub(crate) fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Vec<Entry>)) {
        change(&mut self.entries.lock().unwrap());
    }

    /// Number of connections that were accepted.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The binds since the last call: names and passwords.
    pub(crate) fn binds(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.binds.lock().unwrap())
    }
}

async fn serve(
    mut stream: TcpStream,
    entries: Arc<Mutex<Vec<Entry>>>,
    behaviour: Arc<Mutex<Behaviour>>,
    binds: Arc<Mutex<Vec<(String, String)>>>,
) {
    let mut received = [0; 65536];
    // every request of these tests fits into one read
    while let Ok(length @ 1..) = stream.read(&mut received).await {
        for (_, request) in split(&received[..length]) {
            let parts = split(request);
            let (id, (operation, content)) = (parts[0].1, parts[1]);
            let behaviour = behaviour.lock().unwrap().clone();
            let answer = match (&behaviour, operation) {
                (Behaviour::Hangs, _) => {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                    return;
                }
                (Behaviour::Closes, _) => return,
                (_, 0x60) => {
                    let parts = split(content);
                    let [dn, password] =
                        [parts[1].1, parts[2].1].map(|part| String::from_utf8_lossy(part).into_owned());
                    binds.lock().unwrap().push((dn.clone(), password.clone()));
                    let is_right = entries
                        .lock()
                        .unwrap()
                        .iter()
                        .any(|entry| entry.dn == dn && entry.password.as_ref() == Some(&password));
                    let code = match behaviour {
                        Behaviour::Binds(code) => code,
                        Behaviour::AnonymousBinds if password.is_empty() => 0,
                        _ if is_right => 0,
                        _ => 49,
                    };
                    message(id, &result(0x61, code))
                }
                (Behaviour::Searches(answer), 0x63) => answer(id),
                (_, 0x63) => {
                    let parts = split(content);
                    let (base, filter) = (String::from_utf8_lossy(parts[0].1).into_owned(), parts[6]);
                    let entries = entries.lock().unwrap();
                    let found =
                        entries.iter().filter(|entry| entry.dn.ends_with(&base) && entry.matches(filter));
                    let found: Vec<_> = found.map(|entry| message(id, &entry.response())).collect();
                    [found.concat(), message(id, &result(0x65, 0))].concat()
                }
                // an unbind
                _ => return,
            };
            if stream.write_all(&answer).await.is_err() {
                return;
            }
        }
    }
}
