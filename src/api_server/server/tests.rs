//! The handle against a few lines of HTTP: what each answer becomes, and when the client is a new
//! one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use serde_json::{Value, json};

use super::*;
use crate::api_server::scripted::{Reply, Scripted};

fn get() -> Call {
    let path = format!("/api/v1/namespaces/{}/configmaps/x", encoded("a/b"));
    Call::get("configmaps", path)
}

#[tokio::test]
async fn requests_carry_what_the_server_needs() {
    let scripted = Scripted::start(|_| Reply::new(201, json!({"a": 1}).to_string())).await;
    let server = scripted.server();
    let sent = body("configmaps", &json!({"b": 2})).unwrap();
    for (call, method, content_type) in [
        (get(), "GET", "application/json"),
        (
            Call::create("configmaps", "/x".to_owned(), sent.clone()),
            "POST",
            "application/json",
        ),
        (
            Call::update("configmaps", "/x".to_owned(), sent.clone()),
            "PUT",
            "application/json",
        ),
        (
            Call::merge("services/status", "/x?a=b".to_owned(), sent.clone()),
            "PATCH",
            "application/strategic-merge-patch+json",
        ),
    ] {
        let answer: Value = server.call(&call).await.unwrap();
        assert_eq!(answer, json!({"a": 1}));
        let asked = scripted.asked().pop().unwrap();
        assert_eq!(asked.method, method);
        assert_eq!(asked.target, call.path);
        assert_eq!(asked.content_type, content_type);
        assert_eq!(asked.authorization, "Bearer first");
        let sent = if method == "GET" {
            Value::Null
        } else {
            json!({"b": 2})
        };
        assert_eq!(asked.body, sent);
    }
    assert_eq!(
        scripted.asked()[0].target,
        "/api/v1/namespaces/a%2Fb/configmaps/x"
    );
}

#[tokio::test]
async fn each_refusal_says_what_may_have_happened() {
    for (code, expected, unknown) in [
        (404, "configmaps is not there: no", false),
        (409, "configmaps was written by somebody else: no", false),
        (
            403,
            "the role lacks the verb update on configmaps: no",
            false,
        ),
        (
            401,
            "the API server does not accept the credentials: no",
            false,
        ),
        (
            422,
            "the API server refused update on configmaps with 422: no",
            false,
        ),
        (429, "the API server answered 429: no", false),
        (500, "the API server answered 500: no", true),
        (504, "the API server answered 504: no", true),
    ] {
        let scripted = Scripted::start(move |_| {
            let mut reply = Reply::refusal(code, "no");
            reply.retry_after = Some(7);
            reply
        })
        .await;
        let call = Call::update("configmaps", "/x".to_owned(), b"{}".to_vec());
        let error = scripted.server().answer(&call).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.leaves_outcome_unknown(), unknown, "{code}");
        let obeyed = matches!(code, 429 | 500..);
        let asked = obeyed.then_some(Duration::from_secs(7));
        assert_eq!(error.retry_after(), asked, "{code}");
    }
}

#[tokio::test]
async fn silence_noise_and_absence_are_told_apart() {
    let mut replies = [Reply::silent(), Reply::new(200, "{".to_owned())].into_iter();
    let scripted = Scripted::start(move |_| replies.next().expect("two requests")).await;
    let server = scripted.server();
    let within = Duration::from_millis(50);
    let silent = server.call::<Value>(&get().within(within)).await;
    assert!(
        matches!(silent, Err(CallError::TimedOut(it)) if it == within),
        "{silent:?}"
    );
    assert!(
        server.current.lock().await.0.is_none(),
        "its connection is not used again"
    );
    let noise = server.call::<Value>(&get()).await;
    assert!(
        matches!(
            noise,
            Err(CallError::Malformed {
                resource: "configmaps",
                ..
            })
        ),
        "{noise:?}"
    );
    drop(scripted);
    let nobody = Server::new(Credentials::new(Some("/nonexistent/kubeconfig".into())));
    let absent = nobody.call::<Value>(&get()).await.unwrap_err();
    assert!(matches!(absent, CallError::Client(_)), "{absent:?}");
    assert!(absent.describe().contains("/nonexistent/kubeconfig"));
}

#[tokio::test]
async fn new_credentials_count_from_the_next_request_on() {
    let scripted = Scripted::start(|_| Reply::object(&json!({}))).await;
    let server = scripted.server();
    server.answer(&get()).await.unwrap();
    scripted.write_kubeconfig("second-one");
    server.answer(&get()).await.unwrap();
    // Half of a file: the client that stands is good for a while.
    std::fs::write(scripted.kubeconfig(), "clusters: {").unwrap();
    server.answer(&get()).await.unwrap();
    let tokens: Vec<String> = (scripted.asked().into_iter())
        .map(|asked| asked.authorization)
        .collect();
    assert_eq!(
        tokens,
        ["Bearer first", "Bearer second-one", "Bearer second-one"]
    );
}

#[tokio::test]
async fn a_token_that_ran_out_is_read_again_at_once() {
    let scripted = Scripted::start(|asked| match asked.authorization.as_str() {
        "Bearer second-one" => Reply::object(&json!({})),
        _ => Reply::refusal(401, "Unauthorized"),
    })
    .await;
    // It does not look at the files of its own accord.
    let credentials = Credentials::new(Some(scripted.kubeconfig()));
    let server = Server::with_period(credentials, Duration::from_secs(3600));
    let refused = server.answer(&get()).await.unwrap_err();
    assert!(
        matches!(refused, CallError::Unauthorized { .. }),
        "{refused:?}"
    );
    assert_eq!(scripted.asked().len(), 2, "asked twice and no more");
    scripted.write_kubeconfig("second-one");
    server.answer(&get()).await.unwrap();
    assert_eq!(scripted.asked().len(), 4);
}
