"""Custom rules: an executable that is run, a shell command, tree artifacts and a parameter file."""

def _joined_impl(ctx):
    """Joins the sources by a tool that reads its arguments from a parameter file."""
    out = ctx.actions.declare_file(ctx.label.name + ".txt")
    args = ctx.actions.args()
    args.use_param_file("@%s", use_always = True)
    args.set_param_file_format("multiline")
    args.add(out)
    args.add_all(ctx.files.srcs)
    ctx.actions.run(
        executable = ctx.executable._join,
        arguments = [args],
        inputs = ctx.files.srcs,
        outputs = [out],
        mnemonic = "Join",
    )
    return [DefaultInfo(files = depset([out]), runfiles = ctx.runfiles([out]))]

joined = rule(
    implementation = _joined_impl,
    attrs = {
        "srcs": attr.label_list(allow_files = True),
        "_join": attr.label(default = "//rules:join", executable = True, cfg = "host"),
    },
)

def _counted_impl(ctx):
    """Counts lines by a shell command, with an environment of its own."""
    out = ctx.actions.declare_file(ctx.label.name + ".txt")
    ctx.actions.run_shell(
        command = "(echo $GREETING; cat \"$@\" | wc -l) > " + out.path,
        arguments = [f.path for f in ctx.files.srcs],
        inputs = ctx.files.srcs,
        outputs = [out],
        env = {"GREETING": "lines"},
        mnemonic = "Count",
    )
    return [DefaultInfo(files = depset([out]), runfiles = ctx.runfiles([out]))]

counted = rule(
    implementation = _counted_impl,
    attrs = {"srcs": attr.label_list(allow_files = True)},
)

def _tree_impl(ctx):
    """Makes a directory whose content only the action knows."""
    tree = ctx.actions.declare_directory(ctx.label.name)
    ctx.actions.run_shell(
        command = "\n".join([
            "set -eu",
            "mkdir -p $1/a/b",
            "for i in $(seq $2); do echo leaf $i > $1/leaf_$i.txt; done",
            "echo deep > $1/a/b/deep.txt",
            "printf '#!/bin/sh\\necho run\\n' > $1/a/run.sh",
            "chmod +x $1/a/run.sh",
            ": > $1/a/empty",
        ]),
        arguments = [tree.path, str(ctx.attr.leaves)],
        outputs = [tree],
        mnemonic = "MakeTree",
    )
    return [DefaultInfo(files = depset([tree]), runfiles = ctx.runfiles([tree]))]

tree = rule(
    implementation = _tree_impl,
    attrs = {"leaves": attr.int(default = 3)},
)

def _listed_impl(ctx):
    """Reads a whole directory."""
    out = ctx.actions.declare_file(ctx.label.name + ".txt")
    ctx.actions.run_shell(
        command = "cd $1 && (find -L . -type f | LC_ALL=C sort; cat a/b/deep.txt; a/run.sh) > $OLDPWD/$2",
        arguments = [ctx.files.tree[0].path, out.path],
        inputs = ctx.files.tree,
        outputs = [out],
        mnemonic = "ListTree",
    )
    return [DefaultInfo(files = depset([out]), runfiles = ctx.runfiles([out]))]

listed = rule(
    implementation = _listed_impl,
    attrs = {"tree": attr.label(mandatory = True)},
)
