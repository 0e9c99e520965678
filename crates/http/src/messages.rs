//! Message catalogs: the translated texts of `locales/*.toml`, keyed by core's identifiers.

use std::{borrow::Cow, collections::BTreeMap, sync::LazyLock};

use pilothouse_core::{
    Error,
    diagnosis::{Action, Finding},
    error::{Context, MissingRight, Reason},
    gate::Warning,
    rights::{BuiltInRole, RightResource, RightVerb},
    streams::StreamEnd,
};
use serde::Deserialize;

use crate::language::Language;

impl Language {
    /// The message catalog of the language.
    pub(crate) fn catalog(self) -> &'static Catalog {
        static CHINESE: LazyLock<Catalog> = LazyLock::new(|| Catalog::read(include_str!("locales/zh.toml")));
        static ENGLISH: LazyLock<Catalog> = LazyLock::new(|| Catalog::read(include_str!("locales/en.toml")));
        match self {
            Self::Chinese => &CHINESE,
            Self::English => &ENGLISH,
        }
    }
}

type Texts = BTreeMap<String, String>;

/// Key of the text that is added to a finding that is over.
const OVER: &str = "over";

/// The message catalog of one language.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Catalog {
    separator: String,
    field: String,
    messages: Texts,
    codes: Texts,
    causes: BTreeMap<String, CauseTexts>,
    reasons: Texts,
    warnings: Texts,
    ends: Texts,
    roles: Texts,
    resources: Texts,
    /// Where a right is missing.
    places: Texts,
    /// Texts of findings, by rule or by rule and variant: `image_pull`, `image_pull.auth`.
    findings: Texts,
    /// Texts of the steps of findings.
    steps: Texts,
    absent: Texts,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct CauseTexts {
    details: String,
    /// Text appended to the details of one verb and resource, keyed as `list secret`.
    #[serde(default)]
    because: Texts,
    suggestions: Vec<String>,
    /// Replaces details and suggestions when a change was sent and its outcome is unknown.
    outcome_unknown: Option<Alternative>,
    /// Replaces details and suggestions when no role can have the missing right.
    in_no_role: Option<Alternative>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Alternative {
    details: String,
    suggestions: Vec<String>,
}

/// The texts of an error.
pub(crate) struct Explanation {
    pub(crate) message: String,
    pub(crate) details: String,
    pub(crate) suggestions: Vec<String>,
}

impl Catalog {
    fn read(text: &str) -> Self {
        toml::from_str(text).expect("the embedded catalog is valid, which a test checks")
    }

    /// The message of a success.
    pub(crate) fn message(&self, message: Message) -> &str {
        look_up(&self.messages, message.as_str())
    }

    /// The text of a warning.
    pub(crate) fn warning(&self, warning: &Warning) -> String {
        let template = look_up(&self.warnings, warning.as_str());
        self.fill(template, |name| (name == "subject").then(|| warning.subject().to_owned()))
    }

    /// The text of a finding.
    pub(crate) fn finding(&self, finding: &Finding) -> String {
        let rule = finding.rule.as_str();
        let of_variant = finding.variant.and_then(|variant| self.findings.get(&format!("{rule}.{variant}")));
        let template = of_variant.map_or_else(|| look_up(&self.findings, rule), String::as_str);
        let text = self.fill(template, |name| finding.facts.get(name).cloned());
        match finding.until {
            Some(_) => format!("{text}{}", look_up(&self.findings, OVER)),
            None => text,
        }
    }

    /// The text of a step of a finding.
    pub(crate) fn step(&self, action: Action, finding: &Finding) -> String {
        self.fill(look_up(&self.steps, action.as_str()), |name| finding.facts.get(name).cloned())
    }

    /// The text for the end of a stream.
    pub(crate) fn end(&self, end: &StreamEnd) -> String {
        match end {
            // a stream is read-only
            StreamEnd::Failed(error) => self.explain(&error.clone().read_only(), None).details,
            end => look_up(&self.ends, end.reason()).to_owned(),
        }
    }

    /// The texts of an error.
    pub(crate) fn explain(&self, error: &Error, retry_after: Option<u64>) -> Explanation {
        let empty = CauseTexts::default();
        let texts = self.causes.get(error.cause.as_str()).unwrap_or(&empty);
        let outcome_unknown = texts.outcome_unknown.as_ref().filter(|_| error.outcome_unknown());
        let in_no_role = texts.in_no_role.as_ref().filter(|_| is_in_no_role(error));
        let (details, suggestions) = match outcome_unknown.or(in_no_role) {
            Some(Alternative { details, suggestions }) => (details, suggestions),
            None => (&texts.details, &texts.suggestions),
        };
        let fill = |template: &String| self.fill(template, |name| self.placeholder(error, retry_after, name));
        let mut details = fill(details);
        if let (Some(verb), Some(resource)) = (&error.context.verb, &error.context.resource)
            && let Some(because) = texts.because.get(&format!("{verb} {resource}"))
        {
            details.push_str(&self.separator);
            details.push_str(because);
        }
        Explanation {
            message: look_up(&self.codes, error.code().as_str()).to_owned(),
            details,
            suggestions: suggestions.iter().map(fill).collect(),
        }
    }

    fn placeholder(&self, error: &Error, retry_after: Option<u64>, name: &str) -> Option<String> {
        let context = &error.context;
        match name {
            "fields" => {
                let field =
                    |field: &pilothouse_core::error::FieldError| self.field(&field.name, field.reason);
                Some(context.fields.iter().map(field).collect::<Vec<_>>().join(&self.separator))
            }
            "object" => {
                let path: Vec<_> = [&context.namespace, &context.pod, &context.name]
                    .into_iter()
                    .flatten()
                    .cloned()
                    .collect();
                let kind = context.resource.as_deref().map(|kind| look_up(&self.resources, kind).to_owned());
                Some(
                    kind.into_iter()
                        .chain((!path.is_empty()).then(|| path.join("/")))
                        .collect::<Vec<_>>()
                        .join(" "),
                )
            }
            "message" => context.message.clone(),
            "verb" => context.verb.clone(),
            "right" => context.missing.as_ref().map(|right| format!("{} {}", right.verb, right.resource)),
            "place" => context.missing.as_ref().map(|right| self.place(right)),
            "role" => self.role(context),
            "seconds" => retry_after.map(|seconds| seconds.to_string()),
            _ => None,
        }
    }

    /// Where a right is missing.
    fn place(&self, right: &MissingRight) -> String {
        let key = match (right.cluster_id, &right.namespace) {
            (Some(_), Some(_)) => "namespace",
            (Some(_), None) => "cluster",
            (None, Some(_)) => "namespace_of_all",
            (None, None) => "all",
        };
        self.fill(look_up(&self.places, key), |placeholder| match placeholder {
            "cluster" => right.cluster_id.map(|id| id.to_string()),
            _ => right.namespace.clone(),
        })
    }

    /// The weakest role that would do: a built-in role, for which a grant suffices, or a role of users.
    fn role(&self, context: &Context) -> Option<String> {
        let built_in = context.missing.as_ref().and_then(|right| {
            let (verb, resource) =
                (RightVerb::parse(&right.verb)?, RightResource::parse(&right.resource).ok()?);
            let reach_is_cluster = right.namespace.is_none();
            BuiltInRole::ALL
                .into_iter()
                .find(|role| role.rules().verbs(&resource, reach_is_cluster).contains(verb))
        });
        match built_in {
            Some(role) => Some(role.as_str().to_owned()),
            None => context.required_role.map(|role| look_up(&self.roles, role.as_str()).to_owned()),
        }
    }

    fn field(&self, name: &str, reason: Reason) -> String {
        self.fill(&self.field, |placeholder| match placeholder {
            "name" => Some(name.to_owned()),
            _ => Some(look_up(&self.reasons, reason.as_str()).to_owned()),
        })
    }

    /// Fills a template in one pass, so that a placeholder inside a value is not expanded.
    fn fill(&self, template: &str, value: impl Fn(&str) -> Option<String>) -> String {
        let mut parts = template.split('{');
        let mut text = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (name, rest) = part.split_once('}').unwrap_or((part, ""));
            let value = value(name).filter(|value| !value.is_empty()).map(Cow::Owned);
            text.push_str(&value.unwrap_or_else(|| Cow::Borrowed(look_up(&self.absent, name))));
            text.push_str(rest);
        }
        text
    }
}

/// Whether an error is about a right that no role can have, so that no grant gives it.
fn is_in_no_role(error: &Error) -> bool {
    let mut of_super_admins = RightResource::OF_SUPER_ADMINS.iter().map(ToString::to_string);
    error.context.missing.as_ref().is_some_and(|right| of_super_admins.any(|name| name == right.resource))
}

/// The text of a key; the key itself when it has no text (`deployment`).
fn look_up<'a>(texts: &'a Texts, key: &'a str) -> &'a str {
    texts.get(key).map_or(key, String::as_str)
}

/// Declares [`Message`] with the keys of the catalog.
macro_rules! messages {
    ($($variant:ident = $key:literal,)*) => {
        /// The message of a success. The list is closed, so that a test can check every catalog for completeness.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Message { $($variant,)* }

        impl Message {
            /// Every message.
            #[cfg(test)]
            const ALL: &'static [Self] = &[$(Self::$variant,)*];

            const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $key,)* }
            }
        }
    };
}

messages! {
    Done = "done",
    LoggedIn = "logged_in",
    Refreshed = "refreshed",
    LoggedOut = "logged_out",
    PasswordChanged = "password_changed",
    UserCreated = "user_created",
    UserUpdated = "user_updated",
    UserDeleted = "user_deleted",
    PasswordReset = "password_reset",
    SessionRevoked = "session_revoked",
    SecondFactorEnabled = "second_factor_enabled",
    SecondFactorVerified = "second_factor_verified",
    SecondFactorDisabled = "second_factor_disabled",
    SecondFactorReset = "second_factor_reset",
    TokenCreated = "token_created",
    TokenUpdated = "token_updated",
    TokenRevoked = "token_revoked",
    ServiceAccountCreated = "service_account_created",
    ServiceAccountUpdated = "service_account_updated",
    ServiceAccountDeleted = "service_account_deleted",
    RoleCreated = "role_created",
    RoleUpdated = "role_updated",
    RoleDeleted = "role_deleted",
    GrantCreated = "grant_created",
    GrantRevoked = "grant_revoked",
    RequestCreated = "request_created",
    RequestApproved = "request_approved",
    RequestDenied = "request_denied",
    RequestWithdrawn = "request_withdrawn",
    GlassBroken = "glass_broken",
    BreakGlassReviewed = "break_glass_reviewed",
    ClusterCreated = "cluster_created",
    ClusterUpdated = "cluster_updated",
    ClusterDeleted = "cluster_deleted",
    ClusterTested = "cluster_tested",
    NamespaceCreated = "namespace_created",
    NamespaceDeleted = "namespace_deleted",
    WorkloadScaled = "workload_scaled",
    WorkloadRestarted = "workload_restarted",
    RolloutUndone = "rollout_undone",
    RolloutPaused = "rollout_paused",
    RolloutResumed = "rollout_resumed",
    ImagesSet = "images_set",
    WorkloadSuspended = "workload_suspended",
    WorkloadResumed = "workload_resumed",
    JobStarted = "job_started",
    PodDeleted = "pod_deleted",
    PodEvicted = "pod_evicted",
    PodResized = "pod_resized",
    AutoscalerUpdated = "autoscaler_updated",
    NodeCordoned = "node_cordoned",
    NodeUncordoned = "node_uncordoned",
    ConfigMapCreated = "configmap_created",
    ConfigMapUpdated = "configmap_updated",
    ConfigMapDeleted = "configmap_deleted",
    SecretCreated = "secret_created",
    SecretUpdated = "secret_updated",
    SecretDeleted = "secret_deleted",
}

#[cfg(test)]
mod tests {
    use pilothouse_core::{Cause, Code, diagnosis::Rule, ids::ClusterId, role::Role};

    use super::*;

    fn same_keys<'a>(
        section: &str,
        keys: impl Iterator<Item = &'a String>,
        expected: impl Iterator<Item = &'a str>,
    ) {
        let (mut keys, mut expected): (Vec<_>, Vec<_>) =
            (keys.map(String::as_str).collect(), expected.collect());
        keys.sort_unstable();
        expected.sort_unstable();
        assert_eq!(keys, expected, "{section}");
    }

    #[test]
    fn catalogs_cover_exactly_the_known_keys() {
        for language in [Language::Chinese, Language::English] {
            let catalog = language.catalog();
            same_keys(
                "messages",
                catalog.messages.keys(),
                Message::ALL.iter().map(|message| message.as_str()),
            );
            same_keys("codes", catalog.codes.keys(), Code::ALL.iter().map(|code| code.as_str()));
            same_keys("causes", catalog.causes.keys(), Cause::ALL.iter().map(|cause| cause.as_str()));
            same_keys("reasons", catalog.reasons.keys(), Reason::ALL.iter().map(|reason| reason.as_str()));
            same_keys("warnings", catalog.warnings.keys(), Warning::KEYS.into_iter());
            same_keys("ends", catalog.ends.keys(), StreamEnd::REASONS.into_iter());
            same_keys("roles", catalog.roles.keys(), Role::ALL.iter().map(|role| role.as_str()));
            let rules = Rule::ALL.iter().flat_map(|rule| {
                let variants = rule.variants().iter().map(move |variant| format!("{rule}.{variant}"));
                variants.chain([rule.to_string()])
            });
            let rules: Vec<_> = rules.chain([OVER.to_owned()]).collect();
            same_keys("findings", catalog.findings.keys(), rules.iter().map(String::as_str));
            same_keys("steps", catalog.steps.keys(), Action::ALL.iter().map(|action| action.as_str()));
            let places = ["namespace", "cluster", "namespace_of_all", "all"];
            same_keys("places", catalog.places.keys(), places.into_iter());
        }
    }

    #[test]
    fn every_error_has_texts_without_open_placeholders() {
        for language in [Language::Chinese, Language::English] {
            for error in
                Cause::ALL.iter().flat_map(|&cause| [Error::new(cause), Error::new(cause).read_only()])
            {
                let (cause, explanation) = (error.cause, language.catalog().explain(&error, None));
                let texts =
                    [&explanation.message, &explanation.details].into_iter().chain(&explanation.suggestions);
                for text in texts {
                    assert!(
                        !text.is_empty() && !text.contains(['{', '}']),
                        "{cause:?} in {language:?}: {text:?}"
                    );
                }
                assert!(!explanation.suggestions.is_empty(), "{cause:?} in {language:?}");
            }
        }
    }

    #[test]
    fn only_changes_that_were_sent_get_the_text_for_an_unknown_outcome() {
        // an internal error has one text, because most internal errors concern no cluster
        let with_text =
            [Cause::UnexpectedAnswer, Cause::FailingCluster, Cause::ConnectionLost, Cause::DeadlineExceeded];
        for language in [Language::Chinese, Language::English] {
            for &cause in Cause::ALL {
                let catalog = language.catalog();
                let unknown = &catalog.causes[cause.as_str()].outcome_unknown;
                let sent = with_text.contains(&cause);
                assert_eq!(unknown.is_some(), sent, "{cause:?} in {language:?}");
                let details = |error: Error| catalog.explain(&error, None).details;
                let (of_change, of_read) =
                    (details(Error::new(cause)), details(Error::new(cause).read_only()));
                assert_eq!(of_change != of_read, sent, "{cause:?} in {language:?}: {of_change}");
            }
        }
    }

    #[test]
    fn both_languages_use_the_same_placeholders() {
        let placeholders = |text: &str| {
            let mut placeholders: Vec<_> =
                text.split('{').skip(1).filter_map(|p| p.split('}').next()).map(str::to_owned).collect();
            placeholders.sort();
            placeholders
        };
        let (chinese, english) = (Language::Chinese.catalog(), Language::English.catalog());
        for (of_chinese, of_english) in
            [(&chinese.findings, &english.findings), (&chinese.steps, &english.steps)]
        {
            for (key, text) in of_chinese {
                let used = placeholders(text);
                assert_eq!(used, placeholders(&of_english[key]), "{key}");
                let has_absent =
                    |name: &String| chinese.absent.contains_key(name) && english.absent.contains_key(name);
                assert!(used.iter().all(has_absent), "{key}: {used:?}");
            }
        }
        for (cause, texts) in &chinese.causes {
            let placeholders = [placeholders(&texts.details), placeholders(&english.causes[cause].details)];
            assert_eq!(placeholders[0], placeholders[1], "{cause}");
            for placeholder in &placeholders[0] {
                assert!(
                    chinese.absent.contains_key(placeholder) && english.absent.contains_key(placeholder),
                    "{cause}: {placeholder}"
                );
            }
        }
    }

    #[test]
    fn internal_error_message_is_not_in_the_response() {
        let explanation = Language::English.catalog().explain(&Error::internal("canary"), None);
        assert!(!explanation.details.contains("canary"));
    }

    #[test]
    fn placeholder_values_are_not_expanded_again() {
        for language in [Language::Chinese, Language::English] {
            let catalog = language.catalog();
            let error = Error::new(Cause::RejectedByCluster).message("{seconds} {");
            let template = &catalog.causes["rejected_by_cluster"].details;
            assert_eq!(
                catalog.explain(&error, Some(7)).details,
                template.replace("{message}", "{seconds} {")
            );
        }
    }

    #[test]
    fn details_name_the_object_and_the_refused_field() {
        for language in [Language::Chinese, Language::English] {
            let catalog = language.catalog();
            let object =
                Error::new(Cause::NotFoundInCluster).resource("deployment").namespace("shop").name("web");
            let details = catalog.explain(&object, None).details;
            assert!(details.contains("deployment shop/web"), "{details}");
            let details = catalog.explain(&Error::invalid("replicas", Reason::OutOfRange), None).details;
            assert!(
                details.contains("replicas") && details.contains(&catalog.reasons["out_of_range"]),
                "{details}"
            );
        }
    }

    /// A refusal names the missing right, where it is missing, and the weakest role that has it. Only for a right that a
    /// grant can give, it names the route of requests.
    #[test]
    fn refusal_names_the_right_the_place_and_the_role_that_would_do() {
        let missing = |verb: &str, resource: &str, cluster_id: Option<i64>, namespace: Option<&str>| {
            let (cluster_id, namespace) = (cluster_id.map(ClusterId), namespace.map(str::to_owned));
            MissingRight { verb: verb.to_owned(), resource: resource.to_owned(), cluster_id, namespace }
        };
        let cases = [
            (missing("scale", "workloads", Some(3), Some("shop")), Role::OpsAdmin, Some("operator"), true),
            (missing("list", "nodes", Some(3), None), Role::Viewer, Some("viewer"), true),
            // in a namespace, no built-in role has it
            (missing("create", "quotas", Some(3), Some("shop")), Role::OpsAdmin, None, true),
            (missing("create", "clusters", None, None), Role::OpsAdmin, None, true),
            (missing("create", "grants", None, Some("shop")), Role::SuperAdmin, None, true),
            (missing("update", "users", None, None), Role::SuperAdmin, None, false),
        ];
        for language in [Language::Chinese, Language::English] {
            let catalog = language.catalog();
            for (right, required, built_in, may_be_requested) in &cases {
                let error = Error::role_too_low(*required).missing(right.clone());
                let Explanation { details, suggestions, .. } = catalog.explain(&error, None);
                let role = built_in.unwrap_or_else(|| look_up(&catalog.roles, required.as_str()));
                assert!(details.contains(&format!("{} {}", right.verb, right.resource)), "{details}");
                assert!(details.contains(role), "{role}: {details}");
                let cluster = right.cluster_id.map(|id| id.to_string());
                for part in [&cluster, &right.namespace].into_iter().flatten() {
                    assert!(details.contains(part), "{part}: {details}");
                }
                let route = suggestions.iter().any(|text| text.contains("/api/access/requests"));
                assert_eq!(route, *may_be_requested, "{suggestions:?}");
            }
        }
    }

    #[test]
    fn forbidden_secret_read_explains_the_view_role() {
        for language in [Language::Chinese, Language::English] {
            let catalog = language.catalog();
            let because = &catalog.causes["forbidden_by_cluster"].because;
            for (verb, resource) in
                [("list", "secret"), ("get", "secret"), ("delete", "secret"), ("list", "pod")]
            {
                let error = Error::new(Cause::ForbiddenByCluster).verb(verb).resource(resource);
                let details = catalog.explain(&error, None).details;
                let explained = because.values().any(|because| details.ends_with(because));
                assert_eq!(explained, resource == "secret" && verb != "delete", "{language:?}: {details}");
            }
        }
    }
}
