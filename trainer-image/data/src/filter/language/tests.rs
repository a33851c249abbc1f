use super::*;
use bessemer_protocol::task::LANGUAGES;

/// Two sentences of everyday length in each of 22 languages.
const SENTENCES: &[(&str, &str)] = &[
    (
        "eng",
        "The train was late again this morning, so we walked along the river and bought bread at the corner shop.",
    ),
    (
        "eng",
        "Nobody had expected that the old library would open its doors to visitors before the end of the year.",
    ),
    (
        "deu",
        "Der Zug kam heute Morgen wieder zu spät, deshalb gingen wir am Fluss entlang und kauften Brot beim Bäcker.",
    ),
    (
        "deu",
        "Niemand hatte erwartet, dass die alte Bibliothek ihre Türen noch vor dem Ende des Jahres öffnen würde.",
    ),
    (
        "fra",
        "Le train était encore en retard ce matin, alors nous avons marché le long de la rivière et acheté du pain.",
    ),
    (
        "fra",
        "Personne ne s'attendait à ce que la vieille bibliothèque ouvre ses portes aux visiteurs avant la fin de l'année.",
    ),
    (
        "spa",
        "El tren llegó otra vez tarde esta mañana, así que caminamos junto al río y compramos pan en la esquina.",
    ),
    (
        "spa",
        "Nadie esperaba que la antigua biblioteca abriera sus puertas a los visitantes antes de que terminara el año.",
    ),
    (
        "ita",
        "Questa mattina il treno era di nuovo in ritardo, così abbiamo camminato lungo il fiume e comprato il pane.",
    ),
    (
        "ita",
        "Nessuno si aspettava che la vecchia biblioteca aprisse le porte ai visitatori prima della fine dell'anno.",
    ),
    (
        "por",
        "O trem atrasou de novo esta manhã, então caminhamos ao longo do rio e compramos pão na loja da esquina.",
    ),
    (
        "por",
        "Ninguém esperava que a antiga biblioteca abrisse as suas portas aos visitantes antes do fim do ano.",
    ),
    (
        "nld",
        "De trein was vanmorgen weer te laat, dus liepen we langs de rivier en kochten we brood bij de bakker op de hoek.",
    ),
    (
        "nld",
        "Niemand had verwacht dat de oude bibliotheek haar deuren nog voor het einde van het jaar zou openen.",
    ),
    (
        "swe",
        "Tåget var försenat igen i morse, så vi gick längs floden och köpte bröd i affären på hörnet.",
    ),
    (
        "swe",
        "Ingen hade väntat sig att det gamla biblioteket skulle öppna sina dörrar för besökare före årets slut.",
    ),
    (
        "fin",
        "Juna oli taas myöhässä tänä aamuna, joten kävelimme jokea pitkin ja ostimme leipää kulman kaupasta.",
    ),
    (
        "fin",
        "Kukaan ei ollut odottanut, että vanha kirjasto avaisi ovensa kävijöille ennen vuoden loppua.",
    ),
    (
        "pol",
        "Pociąg znowu spóźnił się dziś rano, więc poszliśmy wzdłuż rzeki i kupiliśmy chleb w sklepie na rogu.",
    ),
    (
        "pol",
        "Nikt się nie spodziewał, że stara biblioteka otworzy swoje drzwi dla zwiedzających przed końcem roku.",
    ),
    (
        "ces",
        "Vlak měl dnes ráno zase zpoždění, a tak jsme šli podél řeky a koupili chléb v obchodě na rohu.",
    ),
    (
        "ces",
        "Nikdo nečekal, že stará knihovna otevře své dveře návštěvníkům ještě před koncem roku.",
    ),
    (
        "hun",
        "A vonat ma reggel megint késett, ezért a folyó mentén sétáltunk, és kenyeret vettünk a sarki boltban.",
    ),
    (
        "hun",
        "Senki sem számított arra, hogy a régi könyvtár még az év vége előtt megnyitja kapuit a látogatók előtt.",
    ),
    (
        "tur",
        "Tren bu sabah yine geç kaldı, bu yüzden nehir boyunca yürüdük ve köşedeki dükkândan ekmek aldık.",
    ),
    (
        "tur",
        "Eski kütüphanenin yıl sonundan önce kapılarını ziyaretçilere açacağını kimse beklemiyordu.",
    ),
    (
        "rus",
        "Поезд сегодня утром снова опоздал, поэтому мы пошли вдоль реки и купили хлеб в магазине на углу.",
    ),
    (
        "rus",
        "Никто не ожидал, что старая библиотека откроет свои двери для посетителей до конца года.",
    ),
    (
        "ukr",
        "Потяг сьогодні вранці знову запізнився, тому ми пішли вздовж річки й купили хліб у крамниці на розі.",
    ),
    (
        "ukr",
        "Ніхто не очікував, що стара бібліотека відчинить свої двері для відвідувачів до кінця року.",
    ),
    (
        "ell",
        "Το τρένο άργησε πάλι σήμερα το πρωί, γι' αυτό περπατήσαμε δίπλα στο ποτάμι και αγοράσαμε ψωμί.",
    ),
    (
        "ell",
        "Κανείς δεν περίμενε ότι η παλιά βιβλιοθήκη θα άνοιγε τις πόρτες της πριν από το τέλος του έτους.",
    ),
    (
        "ara",
        "تأخر القطار مرة أخرى هذا الصباح، لذلك مشينا على طول النهر واشترينا الخبز من المتجر في الزاوية.",
    ),
    (
        "ara",
        "لم يتوقع أحد أن تفتح المكتبة القديمة أبوابها للزوار قبل نهاية العام.",
    ),
    (
        "hin",
        "आज सुबह ट्रेन फिर देर से आई, इसलिए हम नदी के किनारे चले और कोने की दुकान से रोटी खरीदी।",
    ),
    (
        "hin",
        "किसी ने नहीं सोचा था कि पुराना पुस्तकालय साल के अंत से पहले आगंतुकों के लिए अपने दरवाज़े खोलेगा।",
    ),
    (
        "jpn",
        "今朝も電車が遅れたので、私たちは川沿いを歩いて、角の店でパンを買いました。",
    ),
    (
        "jpn",
        "古い図書館が年末までに来館者に扉を開くとは、誰も思っていませんでした。",
    ),
    (
        "cmn",
        "今天早上火车又晚点了，所以我们沿着河边走，在街角的商店买了面包。",
    ),
    ("cmn", "没有人想到这座古老的图书馆会在年底之前向游客开放。"),
    (
        "kor",
        "오늘 아침에도 기차가 늦어서 우리는 강을 따라 걷다가 모퉁이 가게에서 빵을 샀다.",
    ),
    (
        "kor",
        "오래된 도서관이 연말 전에 방문객에게 문을 열 것이라고는 아무도 예상하지 못했다.",
    ),
    (
        "vie",
        "Sáng nay tàu lại đến muộn nên chúng tôi đi bộ dọc theo bờ sông và mua bánh mì ở cửa hàng góc phố.",
    ),
    (
        "vie",
        "Không ai ngờ rằng thư viện cũ sẽ mở cửa đón khách tham quan trước khi năm kết thúc.",
    ),
];

fn filter(code: &str, min_score: f64) -> Language {
    Language::new(&Wanted {
        code: code.into(),
        min_score,
    })
    .unwrap()
}

#[test]
fn the_protocol_names_exactly_the_languages_that_are_known() {
    let known: std::collections::BTreeSet<&str> = whatlang::Lang::all()
        .iter()
        .map(whatlang::Lang::code)
        .collect();
    assert_eq!(known, LANGUAGES.into_iter().collect());
    let unknown = Wanted {
        code: "xyz".into(),
        min_score: 0.5,
    };
    assert!(
        Language::new(&unknown)
            .unwrap_err()
            .to_string()
            .contains("`xyz`")
    );
}

/// Of 44 sentences all are recognised, and none is taken for another language. With the default least confidence of
/// 0.65 single sentences of close relatives fall out: that is the price of precision on short texts.
#[test]
fn sentences_are_kept_in_their_language_and_refused_in_every_other() {
    let mut recognised = 0;
    let mut confident = 0;
    for (code, sentence) in SENTENCES {
        recognised += usize::from(filter(code, 0.0).is(sentence));
        confident += usize::from(filter(code, 0.65).is(sentence));
        for (other, _) in SENTENCES.iter().filter(|(other, _)| other != code) {
            assert!(
                !filter(other, 0.65).is(sentence),
                "{sentence} is no {other}"
            );
        }
    }
    println!(
        "{recognised} recognised, {confident} with 0.65, of {}",
        SENTENCES.len()
    );
    assert!(recognised * 100 >= SENTENCES.len() * 97, "{recognised}");
    assert!(confident * 100 >= SENTENCES.len() * 85, "{confident}");
}

#[test]
fn what_has_no_letters_is_in_no_language_and_long_texts_are_judged_by_their_beginning() {
    assert!(!filter("eng", 0.0).is("12345 67890 !?"));
    let english = SENTENCES[0].1.repeat(200);
    let german = SENTENCES[2].1.repeat(2000);
    assert!(filter("eng", 0.65).is(&format!("{english}{german}")));
    // A character that straddles the end of the sample is left out whole.
    assert!(filter("rus", 0.0).is(&SENTENCES[26].1.repeat(400)));
}
