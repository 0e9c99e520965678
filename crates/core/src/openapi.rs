//! The schemas of values that are more than the text or number they are written as: their limits, in the document as
//! in the code that checks them. Rows and enums derive theirs.

use std::borrow::Cow;

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, schema::Type},
};

use crate::{
    cluster::{ApiServer, ClusterName},
    name::{ContainerName, Namespace, ObjectName},
    user::{NewPassword, Username},
    workload::Replicas,
};

/// RFC 1123's label.
const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// RFC 1123's subdomain.
const SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// The same host, port and path as `ApiServer` takes.
const HTTPS: &str = "^https://[^/?#@\\s]+(/[^?#\\s]*)?$";

macro_rules! schemas {
    ($($type:ident: $description:literal, $object:expr;)*) => {$(
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                $object.description(Some($description)).build().into()
            }
        }

        impl ToSchema for $type {
            fn name() -> Cow<'static, str> {
                stringify!($type).into()
            }
        }
    )*};
}

schemas! {
    Namespace: "The name of a namespace.", text(1, 63).pattern(Some(LABEL));
    ObjectName: "The name of an object in the cluster.", text(1, 253).pattern(Some(SUBDOMAIN));
    ContainerName: "The name of a container.", text(1, 63).pattern(Some(LABEL));
    ClusterName: "A name in Pilothouse, unique ignoring case.", text(1, 63);
    ApiServer: "The address of a cluster's API server.", text(9, 512).pattern(Some(HTTPS));
    Username: "A user's name: trimmed and folded to lower case, then of `a-z 0-9 . _ -`.", text(3, 64);
    NewPassword: "The new password.", text(12, 128).format(Some(password()));
    Replicas: "The desired number of replicas.", number(0, Replicas::MAX);
}

fn text(shortest: usize, longest: usize) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).min_length(Some(shortest)).max_length(Some(longest))
}

fn number(least: i64, most: i64) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(least)).maximum(Some(most))
}

fn password() -> utoipa::openapi::SchemaFormat {
    utoipa::openapi::SchemaFormat::KnownFormat(utoipa::openapi::KnownFormat::Password)
}
