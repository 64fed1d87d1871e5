//! The file that says where the API server is, and as whom to come.

use std::path::Path;

/// A kubeconfig with a token, and more of the cluster entry where there is TLS.
pub fn write_kubeconfig(path: &Path, server: &str, user: &str, cluster: &str) {
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: edge\nclusters:\n- name: edge\n  cluster: {{server: \"{server}\"{cluster}}}\nusers:\n- name: edge\n  user: {{{user}}}\ncontexts:\n- name: edge\n  context: {{cluster: edge, user: edge}}\n"
    );
    std::fs::write(path, text).expect("kubeconfig");
}
