//! OpenAPI schemas of the validated names. They document the same limits that the code checks.

use std::borrow::Cow;

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, schema::Type},
};

use crate::name::{ContainerName, Namespace, ObjectName, PathName};

/// RFC 1123 label.
const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// RFC 1123 subdomain.
const SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// One segment of a path.
const SEGMENT: &str = r"^[-A-Za-z0-9_:@][-A-Za-z0-9_:@.]*$";

macro_rules! schemas {
    ($($type:ident: $description:literal, $max_length:literal, $pattern:ident;)*) => {$(
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                let text = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1));
                let name = text.max_length(Some($max_length)).pattern(Some($pattern));
                name.description(Some($description)).build().into()
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
    Namespace: "The name of a namespace.", 63, LABEL;
    ObjectName: "The name of an object in the cluster.", 253, SUBDOMAIN;
    PathName: "The name of an object of any kind.", 253, SEGMENT;
    ContainerName: "The name of a container.", 63, LABEL;
}
