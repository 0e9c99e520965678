//! OpenAPI schemas, behind the feature `openapi`. Rows and enums derive theirs; those of validated types are here, and
//! document the same limits that the code checks.

use std::borrow::Cow;

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, schema::Type},
};

use crate::{
    cluster::ClusterName,
    connection::ApiServer,
    inventory::objects::ResourceName,
    quantity::Quantity,
    user::{NewPassword, Username},
    workload::Replicas,
};

/// Pattern of the plural and the group of a kind.
const RESOURCE: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// Pattern of the URLs that `ApiServer` accepts.
const HTTPS: &str = "^https://[^/?#@\\s]+(/[^?#\\s]*)?$";

/// Pattern of quantities.
const QUANTITY: &str = r"^[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+|[numkMGTPE]|[KMGTPE]i)?$";

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
    ClusterName: "The name of a cluster in Pilothouse; unique, ignoring case.", text(1, 63);
    ApiServer: "The URL of a cluster's API server.", text(9, 512).pattern(Some(HTTPS));
    Username: "A username. It is trimmed and converted to lower case, and may then contain `a-z 0-9 . _ -`.", text(3, 64);
    NewPassword: "The new password.", text(12, 128).format(Some(password()));
    ResourceName: "A kind by its plural and group, as kubectl selects it; of its versions the one that the cluster prefers.", text(1, 317).pattern(Some(RESOURCE));
    Quantity: "A quantity of a resource, as Kubernetes writes it.", text(1, Quantity::MAX_LENGTH).pattern(Some(QUANTITY));
    Replicas: "The desired number of replicas.", number(0, Replicas::MAX);
}

fn text(min_length: usize, max_length: usize) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).min_length(Some(min_length)).max_length(Some(max_length))
}

fn number(min: i64, max: i64) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(min)).maximum(Some(max))
}

fn password() -> utoipa::openapi::SchemaFormat {
    utoipa::openapi::SchemaFormat::KnownFormat(utoipa::openapi::KnownFormat::Password)
}

/// OpenAPI schemas by name: of a type, which is first, and of all types that it refers to.
pub type NamedSchemas = Vec<(String, RefOr<Schema>)>;

/// The schemas of `T`.
pub fn schemas_of<T: ToSchema>() -> NamedSchemas {
    let mut schemas = vec![(T::name().into_owned(), T::schema())];
    T::schemas(&mut schemas);
    schemas
}
