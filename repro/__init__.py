"""Two WACV 2024 quantization papers, table by table and figure by figure: published numbers, judged and re-run."""
