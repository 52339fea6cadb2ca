"""What people look at: HTML pages and their figures."""
