//! OpenAPI schemas of the validated names and texts. They document the same limits that the code checks.

use std::borrow::Cow;

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, schema::Type},
};

use crate::{
    change_reason::ChangeReason,
    name::{ContainerName, Namespace, ObjectName, PathName, Uid},
};

/// RFC 1123 label.
const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// RFC 1123 subdomain.
const SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// One segment of a path.
const SEGMENT: &str = r"^[-A-Za-z0-9_:@][-A-Za-z0-9_:@.]*$";

macro_rules! schemas {
    ($($type:ident: $description:literal, $min_length:literal, $max_length:literal, $pattern:expr;)*) => {$(
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                let text = ObjectBuilder::new().schema_type(Type::String).min_length(Some($min_length));
                let text = text.max_length(Some($max_length)).pattern($pattern);
                text.description(Some($description)).build().into()
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
    Namespace: "The name of a namespace.", 1, 63, Some(LABEL);
    ObjectName: "The name of an object in the cluster.", 1, 253, Some(SUBDOMAIN);
    PathName: "The name of an object of any kind.", 1, 253, Some(SEGMENT);
    ContainerName: "The name of a container.", 1, 63, Some(LABEL);
    Uid: "The uid of an object in the cluster.", 1, 64, Some("^[-0-9A-Za-z]+$");
    ChangeReason: "The reason of a change, as its audit row shows it.", 5, 500, None::<&str>;
}
