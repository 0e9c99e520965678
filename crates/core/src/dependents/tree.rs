//! The tree of dependents, from the owners of all objects of a namespace.

use std::collections::{HashMap, HashSet};

use super::{Dependee, DependentRow, Dependents, DependentsNote, Keeps, OwnedObject, object::is_retained};
use crate::{gate::Warning, kind::Kind, name::Namespace};

/// Maximum number of rows.
const MAX_ROWS: usize = 1_000;

/// The objects that belong to an object, and which of them are deleted with it.
pub(super) struct Tree<'a> {
    dependee: &'a Dependee,
    objects: &'a [(Kind, OwnedObject)],
    /// Objects by the uid of an owner.
    children: HashMap<&'a str, Vec<usize>>,
    /// The uids of the objects that are deleted, the first one included.
    deleted: HashSet<&'a str>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(dependee: &'a Dependee, objects: &'a [(Kind, OwnedObject)]) -> Self {
        let mut children = HashMap::<&str, Vec<usize>>::new();
        for (index, (_, object)) in objects.iter().enumerate() {
            for owner in &object.owners {
                children.entry(owner).or_default().push(index);
            }
        }
        for children in children.values_mut() {
            children.sort_by_key(|index| {
                let (kind, object) = &objects[*index];
                (kind.info().kind, object.name.as_str())
            });
        }
        let deleted = deleted(dependee, objects, &children);
        Self { dependee, objects, children, deleted }
    }

    /// The rows and their numbers. `warnings` name kinds that could not be read; `all` is whether there are no others.
    pub(super) fn dependents(&self, namespace: &Namespace, warnings: Vec<Warning>, all: bool) -> Dependents {
        let mut rows = self.owned_rows(namespace);
        rows.extend(self.retained_rows(namespace));
        let is_claim = |object: &&(Kind, OwnedObject)| object.0 == Kind::PersistentVolumeClaim;
        let is_deleted = |object: &&(Kind, OwnedObject)| self.deleted.contains(object.1.uid.as_str());
        let is_dependent = |object: &&(Kind, OwnedObject)| object.1.uid != self.dependee.uid;
        let deleted = || self.objects.iter().filter(is_dependent).filter(is_deleted);
        let note = if rows.len() > MAX_ROWS {
            Some(DependentsNote::Truncated)
        } else {
            (!all || !warnings.is_empty()).then_some(DependentsNote::Partial)
        };
        rows.truncate(MAX_ROWS);
        Dependents {
            count: deleted().count() as u64,
            pvcs: deleted().filter(is_claim).count() as u64,
            tree: rows,
            note,
            warnings,
        }
    }

    /// The objects with an owner that is deleted, each after that owner.
    fn owned_rows(&self, namespace: &Namespace) -> Vec<DependentRow> {
        let (mut rows, mut shown) = (Vec::new(), HashSet::new());
        let mut pending = self.below(&self.dependee.uid);
        while let Some((owner, index)) = pending.pop() {
            let (kind, object) = &self.objects[index];
            if object.uid == self.dependee.uid || !shown.insert(index) {
                continue;
            }
            let why = (!self.deleted.contains(object.uid.as_str())).then_some(Keeps::OtherOwner);
            rows.push(row(*kind, namespace, object, owner, why));
            // what belongs to an object that stays, stays
            if why.is_none() {
                pending.extend(self.below(&object.uid));
            }
        }
        rows
    }

    /// The objects with this owner, the last one first.
    fn below<'b>(&self, owner: &'b str) -> Vec<(&'b str, usize)> {
        let children = self.children.get(owner).into_iter().flatten();
        children.rev().map(|index| (owner, *index)).collect()
    }

    /// The claims that belong to a StatefulSet that is deleted by their names, and stay.
    fn retained_rows(&self, namespace: &Namespace) -> Vec<DependentRow> {
        let deleted = self.objects.iter().map(|(_, object)| object);
        let deleted = deleted.filter(|object| self.deleted.contains(object.uid.as_str()));
        let sets = deleted.map(|set| (&set.uid, &set.retained_claims));
        let own = [(&self.dependee.uid, &self.dependee.retained_claims)];
        let sets: Vec<_> = own.into_iter().chain(sets).filter(|(_, claims)| !claims.is_empty()).collect();
        let retained = |(kind, claim): &(Kind, OwnedObject)| {
            let retains = |(uid, claims): &&(&String, &Vec<String>)| {
                is_retained(claims, &claim.name) && !claim.owners.contains(uid)
            };
            let (uid, _) = sets.iter().filter(|_| *kind == Kind::PersistentVolumeClaim).find(retains)?;
            Some(row(*kind, namespace, claim, uid, Some(Keeps::Retained)))
        };
        let mut rows: Vec<_> = self.objects.iter().filter_map(retained).collect();
        rows.sort_by(|one, other| one.name.cmp(&other.name));
        rows
    }
}

/// The uids of the objects that the garbage collector deletes after the first one: those all of whose owners are deleted.
/// An owner that was not read counts as one that stays.
fn deleted<'a>(
    dependee: &'a Dependee,
    objects: &'a [(Kind, OwnedObject)],
    children: &HashMap<&str, Vec<usize>>,
) -> HashSet<&'a str> {
    let mut remaining: Vec<usize> = objects.iter().map(|(_, object)| object.owners.len()).collect();
    let mut deleted = HashSet::from([dependee.uid.as_str()]);
    let mut pending = vec![dependee.uid.as_str()];
    while let Some(owner) = pending.pop() {
        for &index in children.get(owner).into_iter().flatten() {
            remaining[index] -= 1;
            let uid = objects[index].1.uid.as_str();
            if remaining[index] == 0 && deleted.insert(uid) {
                pending.push(uid);
            }
        }
    }
    deleted
}

fn row(
    kind: Kind,
    namespace: &Namespace,
    object: &OwnedObject,
    owner: &str,
    why: Option<Keeps>,
) -> DependentRow {
    DependentRow {
        kind: kind.info().kind.to_owned(),
        namespace: namespace.to_string(),
        name: object.name.clone(),
        uid: object.uid.clone(),
        owned_by: owner.to_owned(),
        keeps: why.is_some(),
        why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(kind: Kind, name: &str, owners: &[&str]) -> (Kind, OwnedObject) {
        let owners = owners.iter().map(|owner| (*owner).to_owned()).collect();
        (kind, OwnedObject { uid: name.to_owned(), name: name.to_owned(), owners, ..OwnedObject::default() })
    }

    fn dependents(of: &str, objects: &[(Kind, OwnedObject)]) -> Dependents {
        let dependee = Dependee { uid: of.to_owned(), retained_claims: vec!["data-db-".to_owned()] };
        Tree::new(&dependee, objects).dependents(&Namespace::new("shop").unwrap(), Vec::new(), true)
    }

    fn rows(dependents: &Dependents) -> Vec<(&str, &str, Option<Keeps>)> {
        let rows = dependents.tree.iter();
        rows.map(|row| (row.name.as_str(), row.owned_by.as_str(), row.why)).collect()
    }

    #[test]
    fn dependents_follow_their_owners_in_order() {
        let objects = [
            object(Kind::Pod, "web-b-2", &["web-b"]),
            object(Kind::Deployment, "web", &[]),
            object(Kind::ReplicaSet, "web-b", &["web"]),
            object(Kind::Pod, "web-b-1", &["web-b"]),
            object(Kind::ReplicaSet, "web-a", &["web"]),
            object(Kind::Pod, "other-1", &["other"]),
            object(Kind::ConfigMap, "free", &[]),
        ];
        let found = dependents("web", &objects);
        assert_eq!(
            rows(&found),
            [
                ("web-a", "web", None),
                ("web-b", "web", None),
                ("web-b-1", "web-b", None),
                ("web-b-2", "web-b", None)
            ]
        );
        assert_eq!((found.count, found.pvcs, found.note), (4, 0, None));
        assert!(found.tree.iter().all(|row| !row.keeps && row.namespace == "shop"));
    }

    #[test]
    fn object_with_another_owner_stays_with_all_that_belongs_to_it() {
        let objects = [
            object(Kind::ReplicaSet, "a", &["web"]),
            object(Kind::Secret, "shared", &["web", "elsewhere"]),
            object(Kind::ConfigMap, "below", &["shared"]),
            // both owners are deleted
            object(Kind::ConfigMap, "both", &["a", "web"]),
        ];
        let found = dependents("web", &objects);
        assert_eq!(
            rows(&found),
            [("both", "web", None), ("a", "web", None), ("shared", "web", Some(Keeps::OtherOwner))]
        );
        assert_eq!(found.count, 2);
    }

    #[test]
    fn retained_claims_are_shown_and_not_counted() {
        let objects = [
            object(Kind::Pod, "db-0", &["db"]),
            object(Kind::PersistentVolumeClaim, "data-db-1", &[]),
            object(Kind::PersistentVolumeClaim, "data-db-0", &[]),
            object(Kind::PersistentVolumeClaim, "scratch", &["db-0"]),
            object(Kind::PersistentVolumeClaim, "other", &[]),
        ];
        let found = dependents("db", &objects);
        assert_eq!(
            rows(&found),
            [
                ("db-0", "db", None),
                ("scratch", "db-0", None),
                ("data-db-0", "db", Some(Keeps::Retained)),
                ("data-db-1", "db", Some(Keeps::Retained))
            ]
        );
        assert_eq!((found.count, found.pvcs), (2, 1));
    }

    #[test]
    fn claims_that_a_deleted_stateful_set_retains_are_shown() {
        let mut set = object(Kind::StatefulSet, "pg", &["cluster"]);
        set.1.retained_claims = vec!["data-pg-".to_owned()];
        let mut other = object(Kind::StatefulSet, "cache", &["elsewhere"]);
        other.1.retained_claims = vec!["data-cache-".to_owned()];
        let claim = |name: &str| object(Kind::PersistentVolumeClaim, name, &[]);
        let objects = [claim("data-pg-0"), set, claim("data-cache-0"), other];
        let found = dependents("cluster", &objects);
        assert_eq!(rows(&found), [("pg", "cluster", None), ("data-pg-0", "pg", Some(Keeps::Retained))]);
    }

    #[test]
    fn owners_in_a_circle_end() {
        let objects = [object(Kind::ConfigMap, "a", &["b", "root"]), object(Kind::ConfigMap, "b", &["a"])];
        let found = dependents("root", &objects);
        assert_eq!(rows(&found), [("a", "root", Some(Keeps::OtherOwner))], "neither owner of `a` goes first");
        let own = [object(Kind::ConfigMap, "root", &["root"]), object(Kind::ConfigMap, "a", &["root"])];
        assert_eq!(rows(&dependents("root", &own)), [("a", "root", None)]);
        assert_eq!(dependents("root", &own).count, 1);
    }

    #[test]
    fn rows_are_limited_and_all_are_counted() {
        let objects: Vec<_> =
            (0..1_500).map(|n| object(Kind::Pod, &format!("pod-{n:04}"), &["web"])).collect();
        let found = dependents("web", &objects);
        assert_eq!((found.tree.len(), found.count), (MAX_ROWS, 1_500));
        assert_eq!(found.note, Some(DependentsNote::Truncated));
        assert_eq!(found.tree[999].name, "pod-0999");
    }
}
