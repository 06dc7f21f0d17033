"""Asks a process of nowcart whether it is well: status 0 if /healthz says so. The port is $NOWCART_HEALTH_PORT, else 9464."""

import os
import sys
import urllib.error
import urllib.request

try:
    with urllib.request.urlopen(f"http://127.0.0.1:{os.environ.get('NOWCART_HEALTH_PORT', '9464')}/healthz", timeout=4) as answer:
        sys.exit(0 if answer.status == 200 else 1)
except (urllib.error.URLError, OSError) as error:
    print(error, file=sys.stderr)
    sys.exit(1)
