//! Directories and trees on the wire.

use crate::{decode, digest_to_wire, reapi, required_digest, time, timestamp_to_wire};
use bytes::Bytes;
use mortar_model::{
    DigestFunction, Directory, DirectoryNode, FileNode, NodeProperties, Result, SymlinkNode, Tree,
};
use prost::Message;

/// The Directory in these bytes, checked to be well-formed. That it can be an input is [`Directory::check_input`]'s
/// business.
pub fn decode_directory(function: DigestFunction, bytes: Bytes) -> Result<Directory> {
    let directory = directory_from_wire(function, decode("Directory", bytes)?)?;
    directory.check()?;
    Ok(directory)
}

/// The Tree in these bytes, each directory of it checked to be well-formed.
pub fn decode_tree(function: DigestFunction, bytes: Bytes) -> Result<Tree> {
    let tree: reapi::Tree = decode("Tree", bytes)?;
    let root = directory_from_wire(function, tree.root.unwrap_or_default())?;
    root.check()?;
    let children = tree.children.into_iter().map(|child| {
        let child = directory_from_wire(function, child)?;
        child.check().map(|()| child)
    });
    Ok(Tree { root, children: children.collect::<Result<_>>()? })
}

/// The bytes of a Directory message in canonical form.
pub fn encode_directory(directory: &Directory) -> Bytes {
    directory_to_wire(directory).encode_to_vec().into()
}

/// The bytes of a Tree message.
pub fn encode_tree(tree: &Tree) -> Bytes {
    let root = Some(directory_to_wire(&tree.root));
    let children = tree.children.iter().map(directory_to_wire).collect();
    reapi::Tree { root, children }.encode_to_vec().into()
}

/// A directory whose digests are well-formed; names and order are [`Directory::check`]'s business.
pub fn directory_from_wire(function: DigestFunction, directory: reapi::Directory) -> Result<Directory> {
    let files = directory.files.into_iter().map(|node| {
        let digest = required_digest("files.digest", function, node.digest)?;
        let properties = node.node_properties.map(properties_from_wire);
        Ok(FileNode { name: node.name, digest, is_executable: node.is_executable, properties })
    });
    let directories = directory.directories.into_iter().map(|node| {
        Ok(DirectoryNode {
            name: node.name,
            digest: required_digest("directories.digest", function, node.digest)?,
        })
    });
    let symlinks = directory.symlinks.into_iter().map(|node| SymlinkNode {
        name: node.name,
        target: node.target,
        properties: node.node_properties.map(properties_from_wire),
    });
    Ok(Directory {
        files: files.collect::<Result<_>>()?,
        directories: directories.collect::<Result<_>>()?,
        symlinks: symlinks.collect(),
        properties: directory.node_properties.map(properties_from_wire),
    })
}

fn directory_to_wire(directory: &Directory) -> reapi::Directory {
    let files = directory.files.iter().map(|node| reapi::FileNode {
        name: node.name.clone(),
        digest: Some(digest_to_wire(node.digest)),
        is_executable: node.is_executable,
        node_properties: node.properties.as_ref().map(properties_to_wire),
    });
    let directories = directory.directories.iter().map(|node| reapi::DirectoryNode {
        name: node.name.clone(),
        digest: Some(digest_to_wire(node.digest)),
    });
    let symlinks = directory.symlinks.iter().map(|node| reapi::SymlinkNode {
        name: node.name.clone(),
        target: node.target.clone(),
        node_properties: node.properties.as_ref().map(properties_to_wire),
    });
    reapi::Directory {
        files: files.collect(),
        directories: directories.collect(),
        symlinks: symlinks.collect(),
        node_properties: directory.properties.as_ref().map(properties_to_wire),
    }
}

pub(crate) fn properties_from_wire(properties: reapi::NodeProperties) -> NodeProperties {
    NodeProperties {
        mtime: time::timestamp_from_wire(properties.mtime),
        unix_mode: properties.unix_mode,
        other: properties.properties.into_iter().map(|property| (property.name, property.value)).collect(),
    }
}

pub(crate) fn properties_to_wire(properties: &NodeProperties) -> reapi::NodeProperties {
    let other = properties.other.iter().cloned().map(|(name, value)| reapi::NodeProperty { name, value });
    reapi::NodeProperties {
        properties: other.collect(),
        mtime: properties.mtime.map(timestamp_to_wire),
        unix_mode: properties.unix_mode,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mortar_model::DigestFunction::Sha256;

    #[test]
    fn outputs_may_hold_absolute_links() {
        let link = SymlinkNode { name: "link".into(), target: "/usr/lib".into(), properties: None };
        let directory = Directory { symlinks: vec![link], ..Directory::default() };
        let tree = Tree { root: directory.clone(), children: vec![directory.clone()] };
        assert_eq!(decode_tree(Sha256, encode_tree(&tree)).unwrap(), tree);
        assert_eq!(decode_directory(Sha256, encode_directory(&directory)).unwrap(), directory);
        directory.check_input().unwrap_err();
    }

    #[test]
    fn malformed_directories_are_refused_wherever_they_are() {
        let link = |name: &str| SymlinkNode { name: name.into(), target: "x".into(), properties: None };
        let bad = Directory { symlinks: vec![link("b"), link("a")], ..Directory::default() };
        let good = Directory::default();
        decode_directory(Sha256, encode_directory(&bad)).unwrap_err();
        for (root, child) in [(&bad, &good), (&good, &bad)] {
            let tree = Tree { root: root.clone(), children: vec![child.clone()] };
            decode_tree(Sha256, encode_tree(&tree)).unwrap_err();
        }
    }
}
