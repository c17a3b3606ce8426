"""Where a backbone's weights come from: timm's hub, a file, a folder, or a package."""
