"""Formats of secrets, the places where they stand, and texts that hold none: what benchmarks/redaction.py measures on.

In a template `{A36}` is 36 random letters and digits; the letters are those of `redaction.ALPHABETS`.
"""

FORMATS = {  # keys whose prefix (or form) is their own
    name: template
    for name, _, template in (
        line.strip().partition(" = ")
        for line in """
        openai project = sk-proj-{w74}T3BlbkFJ{w74}
        openai old = sk-{A20}T3BlbkFJ{A20}
        openai admin = sk-admin-{w74}T3BlbkFJ{w74}
        openai ephemeral = ek_{h32}
        anthropic = sk-ant-api03-{w93}AA
        anthropic oauth = sk-ant-oat01-{w93}AA
        groq = gsk_{A52}
        xai = xai-{A80}
        google = AIza{w35}
        google aq = AQ.Ab{w48}
        google oauth secret = GOCSPX-{w28}
        google access = ya29.{w90}
        google refresh = 1//0{w60}
        perplexity = pplx-{A48}
        replicate = r8_{A37}
        hugging face = hf_{A34}
        openrouter = sk-or-v1-{h64}
        cerebras = csk-{a48}
        nvidia = nvapi-{w64}
        together = tgp_v1_{w43}
        fireworks = fw_{A24}
        daytona = dtn_{h64}
        e2b = e2b_{h40}
        linear oauth = lin_oauth_{h64}
        linear = lin_api_{A40}
        inngest = signkey-prod-{h64}
        snyk = snyk_uat.{a8}.{A60}
        generic key = key_{h32}
        no separator = dose{h40}
        browserbase = bb_live_{w27}
        tavily = tvly-dev-{A32}
        firecrawl = fc-{h32}
        jina = jina_{h32}{w30}
        voyage = pa-{w43}
        elevenlabs = sk_{h48}
        cartesia = sk_car_{A22}
        langsmith = lsv2_pt_{h32}_{h10}
        langfuse = sk-lf-{h8}-{h4}-{h4}-{h4}-{h12}
        helicone = sk-helicone-{a7}-{a7}-{a7}-{a7}
        wandb = wandb_v1_{w60}
        modal = as-{A22}
        runpod = rpa_{U44}
        supabase = sbp_{h40}
        supabase secret = sb_secret_{w31}
        neon = napi_{a64}
        planetscale = pscale_tkn_{w43}
        clerk = sk_live_{A42}
        resend = re_{A8}_{A24}
        mailersend = mlsn.{h64}
        sendgrid = SG.{w22}.{w43}
        brevo = xkeysib-{h64}-{A16}
        mailgun = key-{h32}
        mailchimp = {h32}-us12
        postmark = POSTMARK-{h8}-{h4}-{h4}
        twilio = SK{h32}
        slack bot = xoxb-{d12}-{d13}-{A24}
        slack rotating = xoxe.xoxp-1-{A146}
        slack app = xapp-1-A{U10}-{d13}-{h64}
        slack webhook = https://hooks.slack.com/services/T{U10}/B{U10}/{A24}
        discord bot = MT{A22}.G{A5}.{w38}
        discord webhook = https://discord.com/api/webhooks/{d18}/{w68}
        telegram = {d10}:AA{w33}
        notion = ntn_{A46}
        airtable = pat{A14}.{h64}
        asana = 2/{d16}/{d16}:{h32}
        clickup = pk_{d8}_{U32}
        figma = figd_{w40}
        atlassian = ATATT3xFfGF0{w170}={H8}
        bitbucket = ATBB{A28}{H8}
        github = ghp_{A36}
        github fine = github_pat_{A22}_{A59}
        gitlab = glpat-{w20}
        gitlab routable = glpat-{w27}.{a2}.{a9}
        gitlab trigger = glptt-{h40}
        npm = npm_{A36}
        pypi = pypi-AgEIcHlwaS5vcmc{w120}
        rubygems = rubygems_{h48}
        crates = cio{A32}
        nuget = oy2{a43}
        docker = dckr_pat_{w27}
        jfrog = AKCp{A69}
        sonar = sqp_{h40}
        buildkite = bkua_{h40}
        circleci = CCIPAT_{A22}_{h40}
        netlify = nfp_{A36}
        vercel = vcp_{A56}
        render = rnd_{A28}
        fly = fo1_{w43}
        fly macaroon = FlyV1 fm2_{b120}
        heroku = HRKU-{w60}
        digitalocean = dop_v1_{h64}
        cloudflare origin = v1.0-{h24}-{h146}
        cloudflare = cfut_{A40}{h8}
        datadog app = ddapp_{A34}
        new relic = NRAK-{U27}
        grafana = glsa_{A32}_{h8}
        grafana cloud = glc_eyJ{A80}
        sentry = sntryu_{h64}
        honeycomb = hcaik_01{a56}
        dynatrace = dt0c01.{U24}.{U64}
        posthog = phx_{A43}
        segment = sgp_{A64}
        launchdarkly = sdk-{h8}-{h4}-{h4}-{h4}-{h12}
        doppler = dp.pt.{A43}
        vault = hvs.{w90}
        one password = ops_eyJ{A250}
        infisical = st.{h24}.{h32}.{h32}
        age = AGE-SECRET-KEY-1{U58}
        pulumi = pul-{h40}
        terraform = {A14}.atlasv1.{w67}
        aws = AKIA{U16}
        bedrock = ABSK{b128}
        azure client = {A3}8Q~{w34}
        alibaba = LTAI{A20}
        tencent = AKID{A32}
        yandex = AQVN{w36}
        yandex oauth = y0_{w58}
        square = EAAA{w60}
        square secret = sq0csp-{w43}
        stripe = sk_live_{A99}
        stripe restricted = rk_live_{A99}
        stripe webhook = whsec_{A32}
        plaid = access-production-{h8}-{h4}-{h4}-{h4}-{h12}
        shopify = shpat_{h32}
        razorpay = rzp_live_{A14}
        flutterwave = FLWSECK-{h32}-X
        mercado pago = APP_USR-{d16}-{d6}-{h32}-{d9}
        mapbox = sk.eyJ{A70}.{w22}
        hubspot = pat-na1-{h8}-{h4}-{h4}-{h4}-{h12}
        salesforce = 00D{A12}!AQE{A90}
        okta = 00{w40}
        frameio = fio-u-{w64}
        contentful = CFPAT-{w43}
        dropbox = sl.u.{w130}
        adobe = p8e-{a32}
        facebook = EAA{A150}
        twitter = AAAAAAAAAAAAAAAAAAAAA{A30}%3D{A45}
        duffel = duffel_live_{w43}
        easypost = EZAK{A54}
        shippo = shippo_live_{h40}
        tailscale = tskey-auth-{A12}CNTRL-{A32}
        databricks = dapi{h32}
        prefect = pnu_{a36}
        dbt = dbtc_{w40}
        readme = rdme_{a70}
        postman = PMAK-{h24}-{h34}
        typeform = tfp_{w44}
        maxmind = {A6}_{A29}_mmk
        sourcegraph = sgp_{h16}_{h40}
        unlisted underscore = zqx_{A32}
        unlisted lower = vex_{a40}
        unlisted hex = kqd_{h40}
        unlisted dash = kv-live-{a36}
        jwt = eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIx{A20}.{w43}
        bcrypt = $2b$12${A53}
        sha512 crypt = $6${A12}${A86}
        argon2 = $argon2id$v=19$m=65536,t=3,p=4${A22}${A43}
        cisco 8 = $8${A14}${A43}
        cisco 9 = $9${A14}${A43}
        krb5 = $krb5tgs$23$*svc$CORP.LOCAL$cifs/x*${h32}${h120}
        ntlm = Administrator:500:aad3b435b51404eeaad3b435b51404ee:{h32}:::
        netntlm = bob::CORP:1122334455667788:{h32}:{h96}
        yescrypt = $y$j9T${A22}${A43}
        """.strip().splitlines()
    )
}
NAMES = (
    "api_key", "API_KEY", "apiKey", "secret", "client_secret", "access_token", "ACME_TOKEN", "authToken", "password",
    "db_password", "passwd", "pass", "secret_key", "signing_key", "private_token", "x-api-key", "webhook_secret",
    "encryption_key", "DEPLOY_KEY", "licence_key", "auth_key", "bearer_token", "service_account_key", "app_secret",
)  # fmt: skip
VALUES = {
    "mixed 12": "{A12}", "mixed 24": "{A24}", "lower 15": "{a15}", "lower 32": "{a32}", "hex 32": "{h32}",
    "hex 40": "{h40}", "uuid": "{h8}-{h4}-{h4}-{h4}-{h12}", "base64 44": "{b43}=", "upper 20": "{U20}",
    "marks 14": "{A6}!{A4}#{A2}",
}  # fmt: skip
NAMED = (
    '{0} = "{1}"', "{0}={1}", "{0}: {1}", '"{0}": "{1}"', "{0} => '{1}'", "export {0}={1}", '{0} := "{1}"',
    '{0} .= "{1}"', '{0} ?= "{1}"', "{0}, {1}", "--{0} {1}", "<{0}>{1}</{0}>", "{{'{0}': '{1}'}}", "the {0} is {1}",
    'set("{0}", "{1}")', "{0} -> {1}", "| {0} | {1} |", '{0} == "{1}"', 'config.{0} = "{1}";', "{0}:\n  {1}",
)  # fmt: skip
CONTEXTS = {
    "send keys": ('driver.find_element(By.ID, "password").send_keys("{}")', "{A6}!{A4}"),
    "send keys to a variable": ('password_field.send_keys("{}")', "{A9}"),
    "fill": ('page.fill("#password", "{}")', "{A10}"),
    "type into": ('page.get_by_label("Password").fill("{}")', "{A10}"),
    "typewrite": ('pyautogui.typewrite("{}")  # the password', "{A10}"),
    "seed phrase bare": (
        "legal winner thank year wave sausage worth useful legal winner thank yellow",
        "legal winner thank year wave sausage worth useful legal winner thank yellow",
    ),
    "seed phrase 24": (
        "{}",
        "void come effort suffer camp survey warrior heavy shoot primary clutch crush open amazing screen patrol group "
        "space point ten exist slush involve unfold",
    ),
    "recovery codes": ("Recovery codes:\n{}\nkeep them", "{a5}-{a5}"),
    "backup code": ("backup code: {}", "{d4} {d4}"),
    "one-time code": ("Your Acme verification code is: {}", "{d6}"),
    "vendor and value": ("datadog: {}", "{h32}"),
    "vendor in env": ("DATADOG={}", "{h40}"),
    "cohere": ("cohere key {}", "{A40}"),
    "basic auth url": ("https://bob:{}@git.example.org/x.git", "{A12}"),
    "database url": ("postgres://app:{}@db.example.org:5432/app", "{A12}"),
    "odbc": ("Server=db;Uid=app;Pwd={};Encrypt=yes", "{A12}"),
    "jdbc": ("jdbc:mysql://db/x?user=app&password={}", "{A12}"),
    "mongodb": ("mongodb+srv://app:{}@cluster0.example.net/x", "{A14}"),
    "amqp": ("amqp://app:{}@mq.example.org/v", "{a14}"),
    "curl user": ("curl -u admin:{} https://x.example", "{A10}"),
    "curl header": ("curl -H 'Authorization: Bearer {}' https://x.example", "{A32}"),
    "authorization": ("Authorization: Token {}", "{h40}"),
    "x header": ("X-Auth-Token: {}", "{A24}"),
    "cookie": ("Cookie: sessionid={}; theme=dark", "{a32}"),
    "netrc": ("machine x.example login bob password {}", "{A12}"),
    "sshpass": ("sshpass -p '{}' ssh bob@host", "{A12}"),
    "mysql": ("mysql -u root -p{} shop", "{A12}"),
    "sudo": ("echo '{}' | sudo -S apt update", "{A9}"),
    "docker login": ("docker login -u bob -p {} registry.example", "{A16}"),
    "dockerfile": ("ENV DB_PASSWORD {}", "{A12}"),
    "kubernetes": ("- name: DB_PASSWORD\n  value: {}", "{A12}"),
    "compose": ("POSTGRES_PASSWORD: {}", "{A12}"),
    "ini": ("[db]\nuser = app\npassword = {}\n", "{A12}"),
    "toml": ('password = "{}"', "{l9}"),
    "xml": ("<password>{}</password>", "{l9}"),
    "properties": ("spring.datasource.password={}", "{l9}"),
    "php define": ("define('DB_PASSWORD', '{}');", "{A12}"),
    "python dict": ("{'user': 'bob', 'pass': '{}'}", "{A9}"),
    "auth object": ('{"auth": {"user": "bob", "pass": "{}"}}', "{A6}&{d1}"),
    "login tuple": ("auth=('bob', '{}')", "{A10}"),
    "spoken": ("the password is {}", "{A9}"),
    "spoken german": ("Das Passwort lautet {}", "{A9}"),
    "told to type": ('type "{}" into the password field', "{A9}"),
    "credentials": ("credentials: bob / {}", "{A10}"),
    "wifi": ('psk="{}"', "{A12}"),
    "powershell": ('ConvertTo-SecureString "{}" -AsPlainText', "{A12}"),
    "net user": ("net user bob {} /add", "{A12}"),
    "sql": ("CREATE USER bob IDENTIFIED BY '{}';", "{A12}"),
    "alter": ("ALTER ROLE bob WITH PASSWORD '{}';", "{A12}"),
    "azure": ("AccountName=x;AccountKey={};EndpointSuffix=core.windows.net", "{b86}=="),
    "sas": ("https://x.blob.core.windows.net/c?sv=2024-11-04&sig={}%3D", "{A43}"),
    "aws secret": ("aws_secret_access_key = {}", "{b40}"),
    "aws pair": ("AKIA" + "Q3EGRZ7LKPWM5TJV" + " {}", "{b40}"),
    "presigned": ("https://b.s3.amazonaws.com/k?X-Amz-Credential=x&X-Amz-Signature={}", "{h64}"),
    "npmrc": ("//registry.example/:_authToken={}", "{h36}"),
    "pip": ("https://__token__:{}@pypi.example/simple", "{A24}"),
    "htpasswd": ("bob:$apr1${}", "{A8}${A22}"),
    "shadow": ("root:$6${}:19000:0:99999:7:::", "{A8}${A86}"),
    "private key": (
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----",
        "{b64}\n{b64}\n{b40}",
    ),
    "ssh key": (
        "-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n-----END OPENSSH PRIVATE KEY-----",
        "b3BlbnNzaC1rZXktdjEA{b50}\n{b70}\n{b30}",
    ),
    "session cookie header": ("set-cookie: connect.sid=s%3A{}.x; Path=/", "{A32}"),
    "token sentence": ("I used the token {} to log in", "{A32}"),
    "token comma": ("Token, {}", "{a32}"),
    "ldap": ("ldapsearch -D cn=admin -w {} -b dc=x", "{A12}"),
    "redis": ("redis-cli -a {} ping", "{A16}"),
    "gpg": ("gpg --batch --passphrase {} -d f.gpg", "{A14}"),
    "openssl": ("openssl enc -aes-256-cbc -k {} -in f", "{A14}"),
    "zip": ("zip -P {} a.zip f", "{A12}"),
    "smb": ("smbclient //srv/x -U bob%{}", "{A12}"),
    "rdp": ("xfreerdp /u:bob /p:{} /v:srv", "{A12}"),
    "vnc": ("x11vnc -passwd {}", "{A8}"),
}
CLEAN = {
    name: text.replace("\\n", "\n")
    for name, _, text in (
        line.strip().partition(" = ")
        for line in r"""
        git commit = commit 67bfefc0a1b2c3d4e5f60718293a4b5c6d7e8f90
        git short = fixed in 67bfefc and a1b2c3d
        git index = index 83db48f..bf269f4 100644
        git remote = git@github.com:zejzl/grokputer.git
        git branch = feature/add-token-refresh-2025-11-12
        sha256 line = e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  setup.py
        md5 line = d41d8cd98f00b204e9800998ecf8427e  empty.txt
        cache key = cache_key=9e107d9d372bb6826bd81d3542a419d6
        cache key json = {"cache_key": "9e107d9d372bb6826bd81d3542a419d6"}
        idempotency key = Idempotency-Key: 7f1e9c3a-5d2b-4e8f-9a6c-1b3d5f7e9a2c
        etag = ETag: "33a64df551425fcc55e4d42a148795d9f25f89d4"
        uuid = 550e8400-e29b-41d4-a716-446655440000
        trace id = trace_id=4bf92f3577b34da6a3ce929d0e0e4736 span_id=00f067aa0ba902b7
        traceparent = traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
        request id = x-request-id: req_011CSHoEeqs5C35K2UUqR7Fy
        call id = call_AbC123xYz456DeF789gHi012
        anthropic ids = toolu_01A09q90qw90lq917835lq9 msg_01XFDUDYJgAACzvnptvVoYEL
        openai ids = chatcmpl-9abcDEF123ghiJKL456mnoPQR789 resp_67ccd2bed1ec8190b14f964abc0542670bb6a6b452d3795b
        stripe price = price_1MoBy5LkdIwHu7ixZhnattbh
        stripe product = prod_NZKdYqrwEYx6iK and cus_NffrFeUfNV2Hib
        stripe publishable = pk_live_TYooMQauvdEDq54NiTphI7jx
        stripe payment = pi_3MtwBwLkdIwHu7ix28a3tqPa
        document id = https://docs.google.com/document/d/1BxiMVs0XRA5nFMdKvBdBZjgmUUqptlbs74OgvE2upms/edit
        youtube id = https://www.youtube.com/watch?v=dQw4w9WgXcQ
        notion page = https://www.notion.so/Meeting-notes-1429989fe8ac4effbc8f57f56486db54
        figma file = https://www.figma.com/file/LKQ4FJ4bTnCSjedbRpk931/Sample
        s3 path = s3://my-bucket/2025/11/12/part-00000-8a1b7c9e-snappy.parquet
        arn = arn:aws:iam::123456789012:role/service-role/AWSLambdaBasicExecutionRole
        ami = ami-0abcdef1234567890 in subnet-0bb1c79de3EXAMPLE
        docker digest = nginx@sha256:2834dc507516af02784808c5f48b7cbe38b8ed5d0f4837f16e78d00deb7e7767
        docker image = ghcr.io/zejzl/grokputer:1.4.2-rc.1
        container id = 3f4e9a1b2c7d docker_web_1 Up 3 hours 0.0.0.0:8080->80/tcp
        ssh public key = ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUKLx0pTzq7mR3vXb9sYwQn5cJd8fGh2kLm4nPqRsTu ana@host1
        ssh rsa public = ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQC7vbqajDhA3mXcLrNu9sWz5YkPq8eT1oRfGdVhJiKl backup
        pem public = -----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIB\n-----END PUBLIC KEY-----
        certificate = -----BEGIN CERTIFICATE-----\nMIIDdzCCAl+gAwIBAgIEAgAAuTANBgkqhkiG9w0B\n-----END CERTIFICATE-----
        public key json = {"public_key": "04a34b99f22c790c4e36b2b3c2c35a36db06226e41c692fc82b8b56ac1c540c5bd"}
        ssh fingerprint = SHA256:nThbg6kXUpJWGl7E1IGOCspRomTxdCARLviKw6E5SY8
        host fingerprint md5 = 16:27:ac:a5:76:28:2d:36:63:1b:56:4d:eb:df:a6:48
        sri hash = integrity="sha384-oqVuAfXRKap7fdgcCY5uykM6+R9GqQ8K/uxy9rx7HNQlGYl1kPzQho1wx4JwY8wC"
        npm integrity = "integrity": "sha512-v2kDEe57lecTulaDIuNTPy3Ry4gLGJ6Z1O3vE1krgXZNrsQ+LFTGHVxVjcXPs17LhbZVGedA=="
        pip hash = --hash=sha256:cc2a0a7c2a7c9ea2c61fc5d8b6bdbea4e4a5ab3f49ddc7e1d2a4a9d4e1c1dbb0
        go sum = github.com/gin-gonic/gin v1.9.1 h1:4idEAncQnU5cB7BeOkPtxjfCSye0AAm1R0RVIqJ+Jmg=
        retina image = <img src="logo@2x.png" srcset="logo@3x.png 3x">
        at in css = @media (max-width: 600px) { .a@md { display: none } }
        npm scope = npm install @angular/core@17.0.4 typescript@5.2.2
        decorator = @app.route("/users/search")\ndef search(): ...
        api users = GET /users/search?q=ana HTTP/1.1
        api users id = GET /api/v1/users/12345/posts
        users route = router.get('/users/:id/settings', handler)
        users word = /users/me and /users/all and /home/page.html
        oid = extension 2.5.29.17 critical, OID 1.3.6.1
        driver version = driver 31.0.15.21 from NVIDIA
        chrome version = Chrome/120.0.6099.109 Safari/537.36
        windows build = Microsoft Windows [Version 10.0.19045.3693]
        four part version = upgrade to 1.2.3.4 or 2.5.0.1
        assembly version = Version=4.0.0.0, Culture=neutral, PublicKeyToken=b77a5c561934e089
        numpy pins = numpy==2.4.6 scipy>=1.11,<2
        netmask = 255.255.255.0 via 127.0.0.1
        section = see section 10.2.3.1 of the manual
        getenv = password=os.getenv("DB_PASSWORD")
        getenv call = host = os.getenv("HOST")
        environ = api_key = os.environ["OPENAI_API_KEY"]
        process env = const token = process.env.GITHUB_TOKEN;
        rust env = let secret = std::env::var("SECRET").unwrap();
        go env = password := os.Getenv("PASSWORD")
        ruby env = password: ENV.fetch("DB_PASSWORD")
        php env = $password = getenv('DB_PASSWORD');
        java env = String token = System.getenv("TOKEN");
        shell variable = export PGPASSWORD=$DB_PASSWORD
        shell substitution = TOKEN=$(cat /run/secrets/token)
        github action = token: ${{ secrets.GITHUB_TOKEN }}
        template = password: {{ .Values.db.password }}
        terraform = password = var.db_password
        placeholder your = api_key = "your-api-key-here"
        placeholder angle = token: <your token>
        placeholder x = api_key=xxxxxxxxxxxxxxxxxxxx
        placeholder stars = Password: ********
        placeholder changeme = POSTGRES_PASSWORD=${POSTGRES_PASSWORD:-}
        function = def check_password(password: str, hashed: bytes) -> bool:
        signature = def login(user: str, password: str | None = None, token: str = "") -> None:
        comparison = if password == confirm_password: return True
        attribute = self.password = password
        call keyword = connect(user=user, password=password, token=token)
        call chain = token = self.client.get_token(scope)
        hash call = hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt())
        input call = password = input("Password: ")
        getpass = pw = getpass.getpass()
        json schema = {"password": {"type": "string", "minLength": 8}, "token": {"type": "string"}}
        required list = {"required": ["username", "password"]}
        openapi = securitySchemes:\n  api_key:\n    type: apiKey\n    name: X-API-Key\n    in: header
        form label = <label for="password">Password</label><input type="password" id="password" name="password">
        html id = <div id="password-field" class="secret-box token-list">
        prompt = Please enter your password to continue.
        forgot = Forgot password? Reset your password here.
        password rules = Password must be at least 8 characters and contain a number.
        error = Error: Invalid API key provided. You can find your API key at the dashboard.
        token error = jwt expired: token is no longer valid
        tokens count = prompt_tokens: 1024, completion_tokens: 256, total_tokens: 1280
        max tokens = max_tokens=4096, temperature=0.7
        usage json = {"usage": {"prompt_tokens": 120, "completion_tokens": 33, "cached_tokens": 64}}
        token words = The tokenizer splits text into tokens; each token has an id such as 50256.
        special tokens = eos_token: "<|endoftext|>" pad_token: "[PAD]" bos_token_id: 151643
        keyboard = press key "Enter", then key "ctrl+shift+t"
        key event = {"type": "keydown", "key": "ArrowLeft", "code": "ArrowLeft"}
        primary key = id INTEGER PRIMARY KEY AUTOINCREMENT, foreign_key: user_id
        sort key = sort(key=lambda item: item.name)
        key value = The key idea is to keep it simple: one key, one value.
        dict keys = keys: ["name", "age", "city"]
        s3 key = "Key": "photos/2025/11/IMG_20251112_182111.jpg"
        react key = <li key={item.id} data-key="row-12">
        registry key = HKEY_LOCAL_MACHINE\SOFTWARE\Microsoft\Windows\CurrentVersion
        key file = ssh_key_path: ~/.ssh/id_ed25519
        secret name = secretName: my-app-tls
        secret ref = valueFrom:\n  secretKeyRef:\n    name: db-credentials\n    key: password
        secretary = Secretary: John Smith, Secretariat of the board
        passing = passed=12 failed=0 passive=true compass: north bypass: false
        pass rate = pass_rate: 0.93, pass@1: 0.41
        passport word = Bring your passport and a printed pass.
        author = author: Jane, authority: city council, authentic: yes
        auth flow = auth_type: oauth2, auth_method: client_secret_post
        grant = grant_type=authorization_code&redirect_uri=https://app.example/callback
        client id = DISCORD_CLIENT_ID=265882841309679208
        client id google = client_id: 407408718192.apps.googleusercontent.com
        github client id = client_id=Iv1.8a61f9b3a7aba766
        analytics = ga('create', 'UA-12345678-1'); G-ABC123DEF4 GTM-K2XJ9PQ
        adsense = data-ad-client="ca-pub-1234567890123456"
        sentry dsn public = app id 1:407408718192:web:5e3f2a1b
        recaptcha site key = data-sitekey="6LeIxAcTAAAAAJcZVRqyHh71UMIEGNQ_MXjiZKhI"
        ean = EAN 4006381333931, GTIN 04006381333931
        isbn = ISBN 978-3-16-148410-0
        ean list = 5901234123457 8711253001202 4012345123456
        order number = order no. 100200300400, invoice 2025-11-000123
        tracking number = tracking 1Z999AA10123456784
        imei-like = serial 490154203237518
        vin = VIN 1HGCM82633A004352
        epoch = 1762971671 1762971671911 1762971671911775
        iso time = 2025-11-12T18:21:11.910332+00:00
        coordinates = click (1051, 464), drag to 1920x1080
        gps = 46.056946, 14.505751
        ratio = ratio 16:9, 3:10:02, score 4:1
        mac = mac 00:1b:44:11:3a:b7
        pci = 00:1f.3 Audio device [0403]: Intel Corporation [8086:a348]
        cpp scopes = std::vector<std::pair<int, int>> a::b::c
        math = 12345678 + 87654321 = 99999999
        big number = 18446744073709551615 and 9007199254740993
        money = EUR 1.234.567,89 and $12,345.67
        date range = 2025-11-12/2025-12-31 week 46
        phone-like range = pages 123-456-7890a, lines 100-200
        log line = 2025-11-12 18:21:11,910 - grokputer.main - INFO - Iteration 3 done
        thread = Thread-12 (140735340871680) started
        pointer = at 0x7fff5fbff8c0 in main+0x42
        stack = File "/usr/lib/python3.11/asyncio/base_events.py", line 653, in run_until_complete
        java stack = at com.example.auth.TokenService.validateToken(TokenService.java:142)
        class names = XMLHttpRequest2Factory Qwen3OmniMoeThinkerTextPreTrainedModel
        long function = test_user_service_returns_404_when_token_is_missing_v2
        constants = MAX_TOKEN_LENGTH_IN_BYTES_V2 = 4096
        so file = _multiarray_umath.cpython-311-x86_64-linux-gnu.so
        deb file = libssl1.1_1.1.1f-1ubuntu2.20_amd64.deb
        wheel file = torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl
        screenshot file = screenshot_20251112_182111_0003.png
        chunk file = main.8f2e1a9c.chunk.js index-BzK3nQ7x.css
        hashed asset = /assets/vendor-DfK29sLq.js?v=1.2.3
        temp file = /tmp/tmpx7k2q9_a/output.json
        svg path = M18 14H2V6h12v8zm0-9H2V2h12v3zm2-3H1C0v12h2v-2h2v2z
        colour = #ff00aa rgba(12,34,56,0.7) #1A2B3C4D
        base64 words = aGVsbG8gd29ybGQgdGhpcyBpcyBhIGxvbmcgdGV4dCB3aXRob3V0IHNlY3JldHM=
        css data = url(data:font/woff2;base64,d09GMgABAAAAAA)
        hex dump = 00000000: 7f45 4c46 0201 0100 0000 0000 0000 0000  .ELF............
        regex = re.compile(r"[A-Za-z0-9+/_-]{20,}={0,2}")
        url query = https://example.org/search?q=how+to+reset&page=2&sort=asc
        url hash = https://example.org/docs#section-2.3
        github url = https://github.com/zejzl/grokputer/blob/67bfefc0a1b2c3d4e5f60718293a4b5c6d7e8f90/main.py#L10
        localhost = http://localhost:8000/health http://127.0.0.1:3000
        port map = -p 8080:80 -u 1000:1000 --network host
        ssh command = ssh -p 2222 -i ~/.ssh/id_ed25519 deploy-host
        scp = scp -P 22 file host:/srv/data
        flags = --password-stdin --token-file /run/t --no-auth-cache
        env names = needs OPENAI_API_KEY, GITHUB_TOKEN and DB_PASSWORD
        unset = unset AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN
        yaml null = password: null\ntoken: ~\napi_key: ""
        yaml bool = auth: true\nsecret: false
        settings words = {"credentials": "include", "cookies": "enabled", "pin": true}
        sentence code = The area code is 12345 and the zip code is 90210.
        pin verb = Pin the tab; unpin 3 items; pin: left
        otp word = Choose OTP or SMS as the method.
        code review = code: 200, status_code=404, error code 1045
        exit code = exit code 137 (SIGKILL)
        postcode = SW1A 1AA, 1000 Ljubljana
        names = John Smith met Ana at the office on Monday
        ticket = JIRA-12345, PROJ-987, CVE-2024-12345, RFC 6749
        poem words = the sun above the road and water under wood near stone beside tree
        bip words sentence = you can use this method when you want to open a new window and move the table
        lorem = Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor
        camel list = getUserName, setApiVersion, isTokenValid, parseJsonBody2
        tool call = {"name": "computer", "arguments": {"action": "click", "x": 1051, "y": 464}}
        sql select = SELECT id, password_hash, token_expiry FROM users WHERE token_id = $1
        migration id = revision = 'ae1027a6acf', down_revision = '1975ea83b712'
        model id = Qwen/Qwen2.5-0.5B-Instruct@7ae557604adf67be50417f59c2c2f167def9a775
        lockfile = resolved "https://registry.example/lodash/-/lodash-4.17.21.tgz#679591c564c3bffaae8454cf0b3df370c3d6911c"
        nix path = /nix/store/0c7c96gikmzv87i7lv3vq5s1cmfjd6zf-glibc-2.31-74
        ipfs = ipfs://QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPkdG
        bitcoin address = bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq
        eth address = 0x742d35Cc6634C0532925a3b844Bc454e4438f44e
        transaction = tx 0x5c504ed432cb51138bcf09aa5e8a410dd4a1e204ef84bfed1be16dfba1b22060
        merkle = block_hash=000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f
        bearer words = Use Bearer authentication; the bearer of this letter
        basic words = Authorization: Basic authentication is not recommended
        """.strip().splitlines()
    )
}
