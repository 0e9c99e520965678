//! LIST in chunks: each is read, projected object by object, and dropped before the next is asked for.

use std::{borrow::Cow, fmt, time::Duration};

use http::StatusCode;
use kube::core::params::ListParams;
use pilothouse_core::{Cause, Error, Result, inventory::Row, kind::Kind, name::NamespaceScope};
use serde::{
    Deserialize, Deserializer,
    de::{self, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{client::ClusterClient, error::Failure, request::Call};

/// Objects a chunk, unless they are large.
const LIMIT: u32 = 500;
/// The most objects that are taken of a chunk: a server that sends more does not keep to the limit.
const MOST: usize = 2 * LIMIT as usize;

/// How long a chunk may take.
const CHUNK: Duration = Duration::from_secs(10);

/// A chunk of a list, its objects as the API server wrote them.
#[derive(Deserialize)]
pub(crate) struct Chunk<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(default)]
    metadata: ChunkMetadata,
    #[serde(borrow)]
    items: Option<Items<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ChunkMetadata {
    r#continue: Option<String>,
    remaining_item_count: Option<i64>,
    resource_version: Option<String>,
}

/// The objects of a chunk, at most [`MOST`].
struct Items<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Items<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bounded;
        impl<'de> Visitor<'de> for Bounded {
            type Value = Vec<&'de RawValue>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MOST} objects")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = sequence.next_element()? {
                    if items.len() == MOST {
                        return Err(de::Error::invalid_length(MOST + 1, &self));
                    }
                    items.push(item);
                }
                Ok(items)
            }
        }
        deserializer.deserialize_seq(Bounded).map(Self)
    }
}

/// All of a list, as it was at one moment.
pub(crate) struct Listed<T> {
    /// The projection of each object.
    pub(crate) objects: Vec<T>,
}

/// A part of a list that is being read.
pub(crate) enum Part<T> {
    /// The projections of the next objects.
    Next(Vec<T>),
    /// The list starts over: what came before is of another moment.
    Again,
}

/// The memory that a projection of an object takes.
pub(crate) trait Size {
    /// In bytes.
    fn size(&self) -> usize;
}

impl Size for Row {
    fn size(&self) -> usize {
        self.size() + size_of::<Self>()
    }
}

impl Size for bool {
    fn size(&self) -> usize {
        size_of::<Self>()
    }
}

impl<'a> Chunk<'a> {
    /// Checks that it is a list at all; Go writes an empty one as null too.
    fn items(&mut self) -> Result<Vec<&'a RawValue>> {
        if self.kind.ends_with("List") {
            Ok(self.items.take().map(|items| items.0).unwrap_or_default())
        } else {
            Err(Error::new(Cause::UnexpectedAnswer))
        }
    }
}

/// What was read of a chunk.
struct Page<T> {
    projected: Vec<T>,
    objects: usize,
    metadata: ChunkMetadata,
}

/// Reads a chunk of a list, keeping what `keep` makes of each object.
async fn page<T: Size + Send + 'static, K: IntoIterator<Item = T>>(
    client: &ClusterClient<'_>,
    call: &Call,
    keep: impl Fn(&RawValue) -> Result<K> + Send + 'static,
) -> Result<Page<T>, Failure> {
    // only the exchange has the chunk's deadline: a turn to parse may take longer to come
    let answer = client.within(CHUNK).read(call).await?;
    let bytes = answer.body.len();
    let read = move || -> Result<Page<T>> {
        let mut chunk: Chunk<'_> = answer.json()?;
        let objects = chunk.items()?;
        let mut page = Page { projected: Vec::new(), objects: objects.len(), metadata: chunk.metadata };
        for object in objects {
            page.projected.extend(keep(object)?);
        }
        Ok(page)
    };
    let page = client.work(bytes, read).await??;
    client.meter().objects(page.objects)?;
    Ok(page)
}

/// Reads all objects of a kind that lie in `scope` and match `selection`, telling `take` what `keep` makes of them, chunk
/// by chunk; returns the version of the moment, from which a watch goes on, empty if the server does not say. A list
/// that takes so long that its place is forgotten (410) starts over, once; of objects so large that a chunk is more than
/// is read of one answer, fewer are asked for.
///
/// # Errors
/// As every call to a cluster, and what `keep` and `take` say; `TooLarge` over the client's limits; `UnexpectedAnswer`
/// from a server whose chunks lead nowhere.
pub(crate) async fn chunks<T: Size + Send + 'static, K: IntoIterator<Item = T>>(
    client: &ClusterClient<'_>,
    kind: Kind,
    scope: &NamespaceScope,
    selection: &ListParams,
    keep: impl Fn(&RawValue) -> Result<K> + Clone + Send + 'static,
    mut take: impl FnMut(Part<T>) -> Result<()> + Send,
) -> Result<String, Failure> {
    let first = ListParams { limit: Some(LIMIT), continue_token: None, ..selection.clone() };
    let (mut params, mut started_over) = (first.clone(), false);
    loop {
        let call = Call::list(kind, scope, &params)?;
        let page = match page(client, &call, keep.clone()).await {
            Ok(page) => page,
            Err(gone) if gone.is(StatusCode::GONE) && params.continue_token.is_some() && !started_over => {
                (params, started_over) = (first.clone(), true);
                take(Part::Again)?;
                continue;
            }
            Err(large) if large.too_long && params.limit > Some(1) => {
                params.limit = params.limit.map(|limit| (limit / 10).max(1));
                continue;
            }
            Err(failure) => return Err(failure),
        };
        take(Part::Next(page.projected))?;
        match page.metadata.r#continue.filter(|token| !token.is_empty()) {
            // each chunk but the last has objects and leads to another place
            Some(token) if page.objects == 0 || params.continue_token.as_ref() == Some(&token) => {
                return Err(Error::new(Cause::UnexpectedAnswer).read_only().into());
            }
            Some(token) => params.continue_token = Some(token),
            None => return Ok(page.metadata.resource_version.unwrap_or_default()),
        }
    }
}

/// Reads all objects as [`chunks`] does, and holds the projections within the client's budget.
///
/// # Errors
/// As [`chunks`].
pub(crate) async fn all<T: Size + Send + 'static, K: IntoIterator<Item = T>>(
    client: &ClusterClient<'_>,
    kind: Kind,
    scope: &NamespaceScope,
    selection: &ListParams,
    keep: impl Fn(&RawValue) -> Result<K> + Clone + Send + 'static,
) -> Result<Listed<T>, Failure> {
    let (mut objects, mut held) = (Vec::new(), client.meter().hold());
    let take = |part: Part<T>| match part {
        Part::Next(more) => {
            held.add(more.iter().map(Size::size).sum())?;
            objects.extend(more);
            Ok(())
        }
        Part::Again => {
            objects.clear();
            held.set(0)
        }
    };
    chunks(client, kind, scope, selection, keep, take).await?;
    held.keep();
    Ok(Listed { objects })
}

/// What `keep` makes of the objects in the first chunk of a list; held within the client's budget.
///
/// # Errors
/// As every call to a cluster.
pub(crate) async fn first<T: Size + Send + 'static, K: IntoIterator<Item = T>>(
    client: &ClusterClient<'_>,
    kind: Kind,
    scope: &NamespaceScope,
    selection: &ListParams,
    keep: impl Fn(&RawValue) -> Result<K> + Send + 'static,
) -> Result<Vec<T>, Failure> {
    let page = page(client, &Call::list(kind, scope, selection)?, keep).await?;
    let mut held = client.meter().hold();
    held.add(page.projected.iter().map(Size::size).sum())?;
    held.keep();
    Ok(page.projected)
}

/// The version that a list has now.
///
/// # Errors
/// As every call to a cluster.
pub(crate) async fn version(
    client: &ClusterClient<'_>,
    kind: Kind,
    selection: &ListParams,
) -> Result<String, Failure> {
    let page = page(client, &Call::list(kind, &NamespaceScope::All, selection)?, nothing).await?;
    Ok(page.metadata.resource_version.unwrap_or_default())
}

/// How many objects of a kind there are, by asking for one and how many remain.
///
/// # Errors
/// As every call to a cluster.
pub(crate) async fn count(client: &ClusterClient<'_>, kind: Kind) -> Result<i64, Failure> {
    let one = ListParams::default().limit(1);
    let page = page(client, &Call::list(kind, &NamespaceScope::All, &one)?, nothing).await?;
    let shown = i64::try_from(page.objects).unwrap_or(i64::MAX);
    Ok(shown.saturating_add(page.metadata.remaining_item_count.unwrap_or(0).max(0)))
}

/// Keeps nothing of an object.
fn nothing(_: &RawValue) -> Result<Option<bool>> {
    Ok(None)
}

#[cfg(test)]
mod tests {
    use pilothouse_core::inventory::LISTS;

    use super::*;

    /// From the bytes of an answer to rows, for every list.
    #[test]
    fn fuzz_list_chunks() {
        let words = [
            "\"items\":[",
            "\"kind\":\"PodList\"",
            "\"metadata\":",
            "\"continue\":\"x\"",
            "\"remainingItemCount\":-1",
            "\"spec\":",
            "\"status\":",
            "\"creationTimestamp\":\"2026-01-01T00:00:00Z\"",
            "\"containers\":[{}]",
            "\"replicas\":",
            "\"100Mi\"",
            "\"containerStatuses\":[",
            "\"state\":{\"terminated\":{\"signal\":9}}",
            "\"ownerReferences\":[",
            "\"data\":{\"a\":\"AA==\"}",
        ];
        pilothouse_fuzz::fuzz("list_chunks", &words, |input| {
            let Ok(mut chunk) = serde_json::from_slice::<Chunk<'_>>(input) else { return };
            let Ok(objects) = chunk.items() else { return };
            for object in objects.into_iter().take(4) {
                for info in LISTS {
                    for kind in info.kinds {
                        // rows or a refusal; each row is an object of its own
                        let rows = info.project.map(|project| project(*kind, object));
                        for row in rows.into_iter().flatten().flatten() {
                            assert!(row.json().starts_with('{'), "{}", row.json());
                        }
                    }
                }
            }
        });
    }
}
