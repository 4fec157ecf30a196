# Runs a command of the service in its environment, such as `bin\app.ps1 doctor`. Alone it prints the menu.
$launch = Join-Path $PSScriptRoot "launch.py"
if (Get-Command py -ErrorAction SilentlyContinue) {
    & py -3 $launch app @args
} elseif (Get-Command python -ErrorAction SilentlyContinue) {
    & python $launch app @args
} else {
    Write-Output "Python 3.11 or newer is needed, and none was found. It is at https://www.python.org/downloads/."
    exit 1
}
exit $LASTEXITCODE
