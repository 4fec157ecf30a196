# Starts the service; the first start installs the packages. Arguments go to `bin\app.ps1 serve`.
$launch = Join-Path $PSScriptRoot "launch.py"
if (Get-Command py -ErrorAction SilentlyContinue) {
    & py -3 $launch start @args
} elseif (Get-Command python -ErrorAction SilentlyContinue) {
    & python $launch start @args
} else {
    Write-Output "Python 3.11 or newer is needed, and none was found. It is at https://www.python.org/downloads/."
    exit 1
}
exit $LASTEXITCODE
