//! Change handlers that ConfigMaps and Secrets share.

/// Declares the handlers `create`, `update` and `delete` over the methods of one field of `App`. A body is destructured
/// into `cluster_id`, `namespace` and the listed fields, from which the expression after `=>` makes the argument of the
/// use case. The file that uses it imports the types of the signatures.
macro_rules! change_handlers {
    (
        $use_cases:ident => $response:ident { $object:ident };
        $create:ident: $new:ident { $($new_field:ident),* } => $new_value:expr, $created:ident;
        $update:ident: $patch:ident { $($patch_field:ident),* } => $patch_value:expr, $updated:ident;
        $delete:ident, $deleted:ident;
    ) => {
        pub(crate) async fn create(
            api: Data<Api>,
            Authenticated(signed_in, Body(body)): Authenticated<Body<$new>>,
        ) -> Result<Response<$response>> {
            let $new { cluster_id, namespace, $($new_field),* } = body;
            let (caller, cluster) = (signed_in.caller(), cluster_id.into());
            let changed = api.app.$use_cases.$create(caller, cluster, &namespace, $new_value).await?;
            Ok(Response::changed(changed, |$object| $response { $object }).with_message(Message::$created))
        }

        pub(crate) async fn update(
            api: Data<Api>,
            Authenticated(signed_in, Body(body)): Authenticated<Body<$patch>>,
        ) -> Result<Response<$response>> {
            let $patch { cluster_id, namespace, name, $($patch_field),* } = body;
            let (caller, cluster) = (signed_in.caller(), cluster_id.into());
            let changed = api.app.$use_cases.$update(caller, cluster, &namespace, name, $patch_value).await?;
            Ok(Response::changed(changed, |$object| $response { $object }).with_message(Message::$updated))
        }

        pub(crate) async fn delete(
            api: Data<Api>,
            Authenticated(signed_in, Body(body)): Authenticated<Body<ByName>>,
        ) -> Result<Response<Empty>> {
            let ByName { cluster_id, namespace, name } = body;
            let (caller, cluster) = (signed_in.caller(), cluster_id.into());
            let changed = api.app.$use_cases.$delete(caller, cluster, &namespace, name).await?;
            Ok(Response::changed(changed, |()| Empty {}).with_message(Message::$deleted))
        }
    };
}

pub(super) use change_handlers;
