"""What the pages of the dashboard show, one module per page. Every query is bounded, whatever the tables hold."""
