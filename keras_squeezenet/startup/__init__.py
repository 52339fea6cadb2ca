"""What is done while other packages are imported: quiet, quick, our classes registered."""
