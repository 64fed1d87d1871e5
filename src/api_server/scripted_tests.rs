//! A few lines of HTTP for the tests of what speaks with the API server: a function answers, and what
//! was asked is kept. Knows nothing of Kubernetes.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::Response;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::client::Credentials;
use super::server::Server;

/// What was asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// The path with its query.
    pub(crate) target: String,
    pub(crate) content_type: String,
    pub(crate) authorization: String,
    /// Null where there is no body.
    pub(crate) body: Value,
}

/// What is answered.
pub(crate) struct Reply {
    pub(crate) code: u16,
    pub(crate) body: String,
    pub(crate) retry_after: Option<u32>,
    /// The answer never comes.
    pub(crate) silent: bool,
}

impl Reply {
    pub(crate) fn object(body: &Value) -> Self {
        Self::new(200, body.to_string())
    }

    /// A refusal as the API server writes it.
    pub(crate) fn refusal(code: u16, message: &str) -> Self {
        let status = json!({"kind": "Status", "message": message, "code": code});
        Self::new(code, status.to_string())
    }

    pub(crate) fn silent() -> Self {
        Self {
            silent: true,
            ..Self::new(200, String::new())
        }
    }

    pub(crate) fn new(code: u16, body: String) -> Self {
        Self {
            code,
            body,
            retry_after: None,
            silent: false,
        }
    }
}

/// A running server, and the file that leads to it.
pub(crate) struct Scripted {
    pub(crate) home: TempDir,
    asked: Arc<Mutex<Vec<Asked>>>,
    address: String,
    task: JoinHandle<()>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scripted {
    pub(crate) async fn start(answer: impl FnMut(&Asked) -> Reply + Send + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::new((Mutex::new(answer), Arc::clone(&asked)));
        let router = Router::new().fallback(move |request: Request| {
            let shared = Arc::clone(&shared);
            async move {
                let asked = read(request).await;
                shared.1.lock().unwrap().push(asked.clone());
                let reply = (shared.0.lock().unwrap())(&asked);
                if reply.silent {
                    std::future::pending::<()>().await;
                }
                let mut response = Response::builder().status(reply.code);
                if let Some(seconds) = reply.retry_after {
                    response = response.header("Retry-After", seconds);
                }
                response.body(Body::from(reply.body)).unwrap()
            }
        });
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let scripted = Self {
            home: tempfile::tempdir().unwrap(),
            asked,
            address,
            task,
        };
        scripted.write_kubeconfig("first");
        scripted
    }

    pub(crate) fn write_kubeconfig(&self, token: &str) {
        let address = &self.address;
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: edge\nclusters:\n- name: edge\n  cluster: {{server: \"http://{address}\"}}\nusers:\n- name: edge\n  user: {{token: {token}}}\ncontexts:\n- name: edge\n  context: {{cluster: edge, user: edge}}\n"
        );
        std::fs::write(self.kubeconfig(), text).unwrap();
    }

    pub(crate) fn kubeconfig(&self) -> std::path::PathBuf {
        Path::new(self.home.path()).join("kubeconfig")
    }

    /// A handle on it that looks at the credentials before every request.
    pub(crate) fn server(&self) -> Arc<Server> {
        let credentials = Credentials::new(Some(self.kubeconfig()));
        Arc::new(Server::with_period(credentials, Duration::ZERO))
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

async fn read(request: Request) -> Asked {
    let (parts, body) = request.into_parts();
    let header = |name: &str| {
        let value = parts.headers.get(name);
        value.map_or(String::new(), |value| value.to_str().unwrap().to_owned())
    };
    let body = to_bytes(body, usize::MAX).await.unwrap();
    Asked {
        method: parts.method.to_string(),
        target: parts.uri.to_string(),
        content_type: header("content-type"),
        authorization: header("authorization"),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    }
}
