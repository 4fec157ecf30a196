# Runs the quick tests, in five minutes on two cores: all as the first argument runs every test, e2e only the end-to-end
# check, --help tells the rest.
$launch = Join-Path $PSScriptRoot "launch.py"
if (Get-Command py -ErrorAction SilentlyContinue) {
    & py -3 $launch test @args
} elseif (Get-Command python -ErrorAction SilentlyContinue) {
    & python $launch test @args
} else {
    Write-Output "Python 3.11 or newer is needed, and none was found. It is at https://www.python.org/downloads/."
    exit 1
}
exit $LASTEXITCODE
