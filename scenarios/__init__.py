"""Experiments as YAML, and the JSON schema that they follow."""

if __name__ != "fedapt.scenarios":
    raise ImportError("this folder is the package fedapt.scenarios: write `import fedapt.scenarios`, not `import scenarios`")
