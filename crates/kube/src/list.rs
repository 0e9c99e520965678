//! LIST in chunks: each is read, projected object by object, and dropped before the next is asked for.

use std::{borrow::Cow, time::Duration};

use http::StatusCode;
use kube::core::params::ListParams;
use pilothouse_core::{Cause, Error, Result, kind::Kind, name::NamespaceScope};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{error::Failure, request::Call, visit::Visit};

/// Objects a chunk, unless they are large.
const LIMIT: u32 = 500;

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
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ChunkMetadata {
    r#continue: Option<String>,
    remaining_item_count: Option<i64>,
    resource_version: Option<String>,
}

/// All of a list, as it was at one moment.
pub(crate) struct Listed<T> {
    /// What was kept of each object.
    pub(crate) kept: Vec<T>,
    /// The version of the moment, from which a watch goes on; empty if the server does not say.
    pub(crate) version: String,
}

impl<'a> Chunk<'a> {
    /// Checks that it is a list at all; Go writes an empty one as null too.
    fn items(&mut self) -> Result<Vec<&'a RawValue>> {
        if self.kind.ends_with("List") {
            Ok(self.items.take().unwrap_or_default())
        } else {
            Err(Error::new(Cause::UnexpectedAnswer))
        }
    }
}

/// Reads all objects of a kind that lie in `scope` and match `selection`, keeping what `keep` makes of each. A list
/// that takes so long that its place is forgotten (410) starts over, once; of objects so large that a chunk is more than
/// is read of one answer, fewer are asked for.
///
/// # Errors
/// As every call to a cluster, and what `keep` says.
pub(crate) async fn all<T, K: IntoIterator<Item = T>>(
    visit: &Visit<'_>,
    kind: Kind,
    scope: &NamespaceScope,
    selection: &ListParams,
    mut keep: impl FnMut(&RawValue) -> Result<K> + Send,
) -> Result<Listed<T>, Failure> {
    let first = ListParams { limit: Some(LIMIT), continue_token: None, ..selection.clone() };
    let (mut params, mut started_over, mut kept) = (first.clone(), false, Vec::new());
    loop {
        let answer = match visit.within(CHUNK).read(&Call::list(kind, scope, &params)?).await {
            Ok(answer) => answer,
            Err(gone) if gone.is(StatusCode::GONE) && params.continue_token.is_some() && !started_over => {
                (params, started_over) = (first.clone(), true);
                kept.clear();
                continue;
            }
            Err(large) if large.too_long && params.limit > Some(1) => {
                params.limit = params.limit.map(|limit| (limit / 10).max(1));
                continue;
            }
            Err(failure) => return Err(failure),
        };
        let mut chunk: Chunk<'_> = answer.json()?;
        for object in chunk.items()? {
            kept.extend(keep(object)?);
        }
        match chunk.metadata.r#continue {
            Some(token) if !token.is_empty() => params.continue_token = Some(token),
            _ => {
                let version = chunk.metadata.resource_version.unwrap_or_default();
                return Ok(Listed { kept, version });
            }
        }
    }
}

/// The first chunk of a list, as the API server wrote it.
///
/// # Errors
/// As every call to a cluster.
pub(crate) async fn first(
    visit: &Visit<'_>,
    kind: Kind,
    scope: &NamespaceScope,
    selection: &ListParams,
) -> Result<Vec<Box<RawValue>>, Failure> {
    let answer = visit.read(&Call::list(kind, scope, selection)?).await?;
    let mut chunk: Chunk<'_> = answer.json()?;
    Ok(chunk.items()?.into_iter().map(ToOwned::to_owned).collect())
}

/// The version that a list has now.
///
/// # Errors
/// As every call to a cluster.
pub(crate) async fn version(
    visit: &Visit<'_>,
    kind: Kind,
    selection: &ListParams,
) -> Result<String, Failure> {
    let answer = visit.read(&Call::list(kind, &NamespaceScope::All, selection)?).await?;
    let mut chunk: Chunk<'_> = answer.json()?;
    chunk.items()?;
    Ok(chunk.metadata.resource_version.unwrap_or_default())
}

/// How many objects of a kind there are, by asking for one and how many remain.
///
/// # Errors
/// As every call to a cluster.
pub(crate) async fn count(visit: &Visit<'_>, kind: Kind) -> Result<i64, Failure> {
    let one = ListParams::default().limit(1);
    let answer = visit.read(&Call::list(kind, &NamespaceScope::All, &one)?).await?;
    let mut chunk: Chunk<'_> = answer.json()?;
    let shown = i64::try_from(chunk.items()?.len()).unwrap_or(i64::MAX);
    Ok(shown.saturating_add(chunk.metadata.remaining_item_count.unwrap_or(0).max(0)))
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
