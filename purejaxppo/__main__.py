"""`python -m purejaxppo`."""

from purejaxppo.cli import main

raise SystemExit(main())
