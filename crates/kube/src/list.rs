//! LIST in chunks: each chunk is read, projected object by object, and dropped before the next request.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use http::StatusCode;
use kube::core::params::ListParams;
use pilothouse_core::{
    Cause, Error, Result, inventory::objects::Column, kind::Kind, namespaces::NamespaceScope, rows::Row,
};
use serde::{
    Deserialize, Deserializer,
    de::{self, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{
    client::ClusterClient,
    error::Failure,
    projection::{Printed, Projection},
    request::{Call, Format},
};

/// Number of objects requested per chunk. Reduced if a chunk exceeds the size limit of a response.
const CHUNK_SIZE: u32 = 500;
/// Maximum number of objects accepted in a chunk. A server that sends more ignores `limit`.
const MAX_CHUNK_OBJECTS: usize = 2 * CHUNK_SIZE as usize;

/// Timeout of reading a chunk.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);

/// A chunk of a list, or of a printed table, with its objects or rows as unparsed JSON.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Chunk<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(default)]
    metadata: ChunkMetadata,
    #[serde(borrow)]
    items: Option<Items<'a>>,
    #[serde(borrow)]
    rows: Option<Items<'a>>,
    column_definitions: Option<Vec<Column>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ChunkMetadata {
    r#continue: Option<String>,
    remaining_item_count: Option<i64>,
    resource_version: Option<String>,
}

/// The objects of a chunk, at most [`MAX_CHUNK_OBJECTS`].
struct Items<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Items<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bounded;
        impl<'de> Visitor<'de> for Bounded {
            type Value = Vec<&'de RawValue>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MAX_CHUNK_OBJECTS} objects")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = sequence.next_element()? {
                    if items.len() == MAX_CHUNK_OBJECTS {
                        return Err(de::Error::invalid_length(MAX_CHUNK_OBJECTS + 1, &self));
                    }
                    items.push(item);
                }
                Ok(items)
            }
        }
        deserializer.deserialize_seq(Bounded).map(Self)
    }
}

/// A complete, consistent list.
pub(crate) struct Listed<T> {
    /// The projection of each object.
    pub(crate) objects: Vec<T>,
}

/// A step of reading a list in chunks.
pub(crate) enum Part<T> {
    /// The projections of the next objects.
    Next(Vec<T>),
    /// The list starts over: earlier parts belong to another state and must be dropped.
    Restarted,
}

/// A projected object whose memory counts against the read budget.
pub(crate) trait Size {
    /// Memory usage, in bytes.
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
    /// Takes the objects after checking that the response is a list; Go serialises an empty list as null.
    fn items(&mut self) -> Result<Vec<&'a RawValue>> {
        if self.kind.ends_with("List") {
            Ok(self.items.take().map(|items| items.0).unwrap_or_default())
        } else {
            Err(Error::new(Cause::UnexpectedAnswer))
        }
    }

    /// Takes the rows of a table, after its columns; from a server that does not print the kind, its objects.
    fn printed(&mut self, printed: &Printed) -> Result<Vec<&'a RawValue>> {
        if self.kind == "Table" {
            printed.declare(self.column_definitions.take().unwrap_or_default())?;
            Ok(self.rows.take().map(|rows| rows.0).unwrap_or_default())
        } else {
            printed.declare(Column::of_unprinted())?;
            self.items()
        }
    }
}

/// A projected chunk.
struct Page<T> {
    projected: Vec<T>,
    objects: usize,
    metadata: ChunkMetadata,
}

/// Reads a chunk of a list, or of a printed table, and projects each object.
async fn read_chunk<T: Size + Send + 'static, K: IntoIterator<Item = T>>(
    client: &ClusterClient<'_>,
    call: &Call,
    printed: Option<&Arc<Printed>>,
    project: impl Fn(&RawValue) -> Result<K> + Send + 'static,
) -> Result<Page<T>, Failure> {
    // the timeout covers the exchange only: a parse slot may take longer
    let response = client.with_timeout(CHUNK_TIMEOUT).read(call).await?;
    let bytes = response.body.len();
    let printed = printed.cloned();
    let parse = move || -> Result<Page<T>> {
        let mut chunk: Chunk<'_> = response.json()?;
        let objects = match &printed {
            Some(printed) => chunk.printed(printed)?,
            None => chunk.items()?,
        };
        let mut page = Page { projected: Vec::new(), objects: objects.len(), metadata: chunk.metadata };
        for object in objects {
            page.projected.extend(project(object)?);
        }
        Ok(page)
    };
    let page = client.run_job(bytes, parse).await??;
    client.meter().objects(page.objects)?;
    Ok(page)
}

/// Reads all objects of a kind in `scope` that match `selection`, and passes their projections to `on_part`, chunk by
/// chunk. Returns the resource version from which a watch continues, empty if the server sends none. A list whose
/// continue token has expired (410) starts over, once. If a chunk exceeds the size limit of a response, the following
/// requests have a smaller limit. With `printed`, the rows of the table that the server prints are projected instead of
/// the objects.
///
/// # Errors
/// As every call to a cluster; the errors of `project` and `on_part`; `TooLarge` above the client's limits;
/// `UnexpectedAnswer` when the chunks do not advance, or have other columns.
pub(crate) async fn chunks<T: Size + Send + 'static, K: IntoIterator<Item = T>>(
    client: &ClusterClient<'_>,
    kind: Kind,
    scope: &NamespaceScope,
    selection: &ListParams,
    printed: Option<&Arc<Printed>>,
    project: impl Fn(&RawValue) -> Result<K> + Clone + Send + 'static,
    mut on_part: impl FnMut(Part<T>) -> Result<()> + Send,
) -> Result<String, Failure> {
    let first = ListParams { limit: Some(CHUNK_SIZE), continue_token: None, ..selection.clone() };
    let (mut params, mut started_over) = (first.clone(), false);
    loop {
        let format = if printed.is_some() { Format::Table } else { Format::Objects };
        let call = Call::list(kind, scope, &params)?.in_format(format);
        let page = match read_chunk(client, &call, printed, project.clone()).await {
            Ok(page) => page,
            Err(expired)
                if expired.is(StatusCode::GONE) && params.continue_token.is_some() && !started_over =>
            {
                (params, started_over) = (first.clone(), true);
                on_part(Part::Restarted)?;
                continue;
            }
            Err(oversized) if oversized.too_long && params.limit > Some(1) => {
                params.limit = params.limit.map(|limit| (limit / 10).max(1));
                continue;
            }
            Err(failure) => return Err(failure),
        };
        on_part(Part::Next(page.projected))?;
        match page.metadata.r#continue.filter(|token| !token.is_empty()) {
            // a chunk that is not the last must have objects and a new token
            Some(token) if page.objects == 0 || params.continue_token.as_ref() == Some(&token) => {
                return Err(Error::new(Cause::UnexpectedAnswer).read_only().into());
            }
            Some(token) => params.continue_token = Some(token),
            None => return Ok(page.metadata.resource_version.unwrap_or_default()),
        }
    }
}

/// Reads all objects like [`chunks`]; the projections count against the client's budget.
///
/// # Errors
/// As [`chunks`].
pub(crate) async fn all<T: Size + Send + 'static, K: IntoIterator<Item = T>>(
    client: &ClusterClient<'_>,
    kind: Kind,
    scope: &NamespaceScope,
    selection: &ListParams,
    project: impl Fn(&RawValue) -> Result<K> + Clone + Send + 'static,
) -> Result<Listed<T>, Failure> {
    collect(client, kind, scope, selection, None, project).await
}

/// The rows of all objects, as [`all`].
///
/// # Errors
/// As [`chunks`].
pub(crate) async fn rows(
    client: &ClusterClient<'_>,
    kind: Kind,
    scope: &NamespaceScope,
    selection: &ListParams,
    projection: &Projection,
) -> Result<Vec<Row>, Failure> {
    let own = projection.clone();
    let project = move |object: &RawValue| own.rows(kind, object);
    Ok(collect(client, kind, scope, selection, projection.printed(), project).await?.objects)
}

async fn collect<T: Size + Send + 'static, K: IntoIterator<Item = T>>(
    client: &ClusterClient<'_>,
    kind: Kind,
    scope: &NamespaceScope,
    selection: &ListParams,
    printed: Option<&Arc<Printed>>,
    project: impl Fn(&RawValue) -> Result<K> + Clone + Send + 'static,
) -> Result<Listed<T>, Failure> {
    let (mut objects, mut reservation) = (Vec::new(), client.meter().reserve());
    let on_part = |part: Part<T>| match part {
        Part::Next(more) => {
            reservation.add(more.iter().map(Size::size).sum())?;
            objects.extend(more);
            Ok(())
        }
        Part::Restarted => {
            objects.clear();
            reservation.set(0)
        }
    };
    chunks(client, kind, scope, selection, printed, project, on_part).await?;
    reservation.retain();
    Ok(Listed { objects })
}

/// Reads the metadata of all objects of a kind in `scope` that match `selection`; their projections count against the
/// client's budget. A list whose continue token expires is an error.
///
/// # Errors
/// As [`all`].
pub(crate) async fn all_metadata<T: Size + Send + 'static>(
    client: &ClusterClient<'_>,
    kind: Kind,
    scope: &NamespaceScope,
    selection: &ListParams,
    project: impl Fn(&RawValue) -> Result<T> + Copy + Send + 'static,
) -> Result<Vec<T>, Failure> {
    let (mut objects, mut reservation) = (Vec::new(), client.meter().reserve());
    let mut params = ListParams { limit: Some(CHUNK_SIZE), ..selection.clone() };
    loop {
        let call = Call::list_metadata(kind, scope, &params)?;
        let page =
            read_chunk(client, &call, None, move |object: &RawValue| project(object).map(Some)).await?;
        reservation.add(page.projected.iter().map(Size::size).sum())?;
        let next = page.metadata.r#continue.filter(|token| !token.is_empty());
        if next.is_some() && (page.objects == 0 || params.continue_token == next) {
            return Err(Error::new(Cause::UnexpectedAnswer).read_only().into());
        }
        objects.extend(page.projected);
        if next.is_none() {
            reservation.retain();
            return Ok(objects);
        }
        params.continue_token = next;
    }
}

/// Reads the first chunk of a list. Returns the projections of its objects, which count against the client's budget.
///
/// # Errors
/// As every call to a cluster.
pub(crate) async fn first<T: Size + Send + 'static, K: IntoIterator<Item = T>>(
    client: &ClusterClient<'_>,
    kind: Kind,
    scope: &NamespaceScope,
    selection: &ListParams,
    project: impl Fn(&RawValue) -> Result<K> + Send + 'static,
) -> Result<Vec<T>, Failure> {
    let page = read_chunk(client, &Call::list(kind, scope, selection)?, None, project).await?;
    let mut reservation = client.meter().reserve();
    reservation.add(page.projected.iter().map(Size::size).sum())?;
    reservation.retain();
    Ok(page.projected)
}

/// The current resource version of a list.
///
/// # Errors
/// As every call to a cluster.
pub(crate) async fn version(
    client: &ClusterClient<'_>,
    kind: Kind,
    selection: &ListParams,
) -> Result<String, Failure> {
    let page = read_chunk(client, &Call::list(kind, &NamespaceScope::All, selection)?, None, discard).await?;
    Ok(page.metadata.resource_version.unwrap_or_default())
}

/// Declares the columns that the server prints for a kind now.
///
/// # Errors
/// As every call to a cluster; `UnexpectedAnswer` when earlier rows have other columns.
pub(crate) async fn declare_columns(
    client: &ClusterClient<'_>,
    kind: Kind,
    printed: &Arc<Printed>,
) -> Result<(), Failure> {
    let one = ListParams::default().limit(1);
    let call = Call::list(kind, &NamespaceScope::All, &one)?.in_format(Format::Table);
    read_chunk(client, &call, Some(printed), discard).await.map(drop)
}

/// Number of objects of a kind, from a list with `limit=1` and its `remainingItemCount`.
///
/// # Errors
/// As every call to a cluster.
pub(crate) async fn count(client: &ClusterClient<'_>, kind: Kind) -> Result<i64, Failure> {
    let one = ListParams::default().limit(1);
    let page = read_chunk(client, &Call::list(kind, &NamespaceScope::All, &one)?, None, discard).await?;
    let shown = i64::try_from(page.objects).unwrap_or(i64::MAX);
    Ok(shown.saturating_add(page.metadata.remaining_item_count.unwrap_or(0).max(0)))
}

/// Projection that discards the object.
fn discard(_: &RawValue) -> Result<Option<bool>> {
    Ok(None)
}

#[cfg(test)]
mod tests {
    use pilothouse_core::{
        clock::Clock,
        inventory::{LISTS, List},
        testing::fake::FakeRuntime,
    };

    use super::*;

    /// Parses the input as a chunk, and projects its objects to rows of every list.
    #[test]
    fn fuzz_list_chunks() {
        let dictionary = [
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
            "\"kind\":\"Table\"",
            "\"columnDefinitions\":[{\"name\":\"Age\",\"type\":\"date\"}]",
            "\"rows\":[{\"cells\":[\"5d\",1,null],\"object\":{\"metadata\":",
        ];
        let clock: Arc<dyn Clock> = FakeRuntime::default().clock;
        pilothouse_fuzz::fuzz("list_chunks", &dictionary, |input| {
            let Ok(mut chunk) = serde_json::from_slice::<Chunk<'_>>(input) else { return };
            let projection = Projection::new(List::Objects.info(), &[Kind::Pod], &clock).unwrap();
            if chunk.kind == "Table" {
                let rows = chunk.printed(projection.printed().unwrap()).unwrap_or_default();
                let stored: Vec<_> = rows
                    .into_iter()
                    .take(4)
                    .flat_map(|row| projection.rows(Kind::Pod, row))
                    .flatten()
                    .collect();
                assert!(projection.shown(stored).is_ok());
                return;
            }
            let Ok(objects) = chunk.items() else { return };
            for object in objects.into_iter().take(4) {
                for info in LISTS {
                    for kind in info.kinds {
                        // rows or an error; each row is a JSON object
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
