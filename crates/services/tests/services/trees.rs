//! GetTree: whole trees, pages, and trees that are not what they should be.

use crate::support::{Server, digest, server};
use mortar_wire::{
    digest_to_wire,
    reapi::{
        Directory, DirectoryNode, FileNode, GetTreeRequest, GetTreeResponse,
        content_addressable_storage_client::ContentAddressableStorageClient,
    },
};
use prost::Message;
use tonic::{Code, Status};

async fn get(server: &Server, request: GetTreeRequest) -> Result<Vec<GetTreeResponse>, Status> {
    let mut client = ContentAddressableStorageClient::new(server.channel.clone());
    let mut stream = client.get_tree(request).await?.into_inner();
    let mut pages = Vec::new();
    while let Some(page) = stream.message().await? {
        pages.push(page);
    }
    Ok(pages)
}

fn node(name: &str, directory: &Directory) -> DirectoryNode {
    DirectoryNode { name: name.into(), digest: Some(digest_to_wire(digest(&directory.encode_to_vec()))) }
}

fn file(name: &str) -> FileNode {
    FileNode {
        name: name.into(),
        digest: Some(digest_to_wire(digest(name.as_bytes()))),
        ..Default::default()
    }
}

fn of(server: &mortar_model::Digest) -> GetTreeRequest {
    GetTreeRequest { root_digest: Some(digest_to_wire(*server)), ..Default::default() }
}

/// A root with five children, two of them the same, one with a child of its own, one not there.
async fn sample(server: &Server) -> (mortar_model::Digest, Vec<Directory>) {
    let leaf = Directory { files: vec![file("leaf")], ..Default::default() };
    let twin = Directory { files: vec![file("twin")], ..Default::default() };
    let parent = Directory { directories: vec![node("leaf", &leaf)], ..Default::default() };
    let absent = Directory { files: vec![file("absent")], ..Default::default() };
    let children = vec![node("a", &twin), node("b", &twin), node("c", &parent), node("d", &absent)];
    let root = Directory { directories: children, ..Default::default() };
    let mut digests = Vec::new();
    for directory in [&root, &twin, &parent, &leaf] {
        digests.push(server.keep(directory.encode_to_vec()).await);
    }
    (digests[0], vec![root, twin, parent, leaf])
}

#[tokio::test]
async fn a_tree_comes_whole_and_each_directory_once() {
    let server = server().await;
    let (root, expected) = sample(&server).await;
    let pages = get(&server, of(&root)).await.unwrap();
    let directories: Vec<_> = pages.into_iter().flat_map(|page| page.directories).collect();
    assert_eq!(directories, expected);
}

#[tokio::test]
async fn pages_can_be_taken_up_at_any_token() {
    let server = server().await;
    let (root, expected) = sample(&server).await;
    let pages = get(&server, GetTreeRequest { page_size: 1, ..of(&root) }).await.unwrap();
    assert!(pages.iter().all(|page| page.directories.len() <= 1));
    assert_eq!(pages.last().unwrap().next_page_token, "");
    for (at, page) in pages.iter().enumerate().filter(|(_, page)| !page.next_page_token.is_empty()) {
        let request = GetTreeRequest { page_token: page.next_page_token.clone(), ..of(&root) };
        let rest = get(&server, request).await.unwrap();
        let rest: Vec<_> = rest.into_iter().flat_map(|page| page.directories).collect();
        assert_eq!(rest, expected[at + 1..]);
    }
}

#[tokio::test]
async fn trees_that_are_not_what_they_should_be() {
    let server = server().await;
    let garbage = server.keep("no directory at all").await;
    let unsorted = Directory { files: vec![file("b"), file("a")], ..Default::default() };
    let twice = Directory { files: vec![file("a"), file("a")], ..Default::default() };
    let escaping = Directory { files: vec![file("../../etc")], ..Default::default() };
    let absolute = Directory { files: vec![file("/etc/passwd")], ..Default::default() };
    let nameless = Directory { files: vec![FileNode { digest: None, ..file("a") }], ..Default::default() };
    let mut cases = vec![
        (GetTreeRequest::default(), Code::InvalidArgument, "root_digest"),
        (of(&digest(b"absent")), Code::NotFound, "was not found"),
        (of(&garbage), Code::InvalidArgument, "no Directory message"),
        (
            GetTreeRequest { page_token: "nonsense".into(), ..of(&garbage) },
            Code::InvalidArgument,
            "page token",
        ),
        (GetTreeRequest { page_size: -1, ..of(&garbage) }, Code::InvalidArgument, "-1"),
    ];
    let malformed = [
        (unsorted, "sorted"),
        (twice, "twice"),
        (escaping, "slash"),
        (absolute, "slash"),
        (nameless, "absent"),
    ];
    for (directory, needle) in malformed {
        let digest = server.keep(directory.encode_to_vec()).await;
        cases.push((of(&digest), Code::InvalidArgument, needle));
    }
    for (request, code, needle) in cases {
        let status = get(&server, request.clone()).await.unwrap_err();
        assert_eq!(status.code(), code, "{request:?}: {}", status.message());
        assert!(status.message().contains(needle), "{}", status.message());
    }
    server.assert_alive().await;
}
