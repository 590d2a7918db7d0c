"""On-device training methods, one file each, and the Flower ClientApp that puts one of each together."""

if __name__ != "fedapt.clients":
    raise ImportError("this folder is the package fedapt.clients: write `import fedapt.clients`, not `import clients`")
